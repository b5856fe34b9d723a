//! The devices and settings that came with the API, as Linux's own drivers see them.

mod balloon;
mod drives;
mod fs;
mod limits;
mod memory_hotplug;
mod metadata;
mod pmem;
mod processor;
mod support;
mod vhost_user;
