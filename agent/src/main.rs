//! The first process of a container's virtual machine.

fn main() {}
