//! Containers, each as a virtual machine of its own.

pub(crate) mod values;
