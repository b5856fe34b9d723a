//! Boots virtual machines and runs containers as virtual machines, from the command line.

fn main() {}
