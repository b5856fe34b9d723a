//! Every route, and every refusal.
