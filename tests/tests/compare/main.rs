//! `vmctl compare`: real containers and real VMs of the same images, measured side by side.

mod bad_input;
mod docker;
mod interrupt;
mod rows;
mod serve;
mod support;
