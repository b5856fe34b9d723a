//! Containers' networks on the host: bridges, addresses, published ports, names.
