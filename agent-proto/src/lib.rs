//! Messages between the host and the agent in a container's virtual machine.
