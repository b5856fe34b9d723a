//! The one type of guest memory that every crate shares.

/// Guest RAM as mapped into this process.
///
/// Cloning shares the mapping, which stays in place until the last clone is dropped: a worker that
/// holds a clone can't outlive the memory that it works on.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;
