//! Containers as virtual machines, by the commands that people know.

mod bad_input;
mod build;
mod lecture;
mod life;
mod registry;
mod support;
mod template;
