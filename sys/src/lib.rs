//! Safe wrappers over what Linux offers a VMM, and the home of nearly all `unsafe` code.

pub mod discard;
pub mod entropy;
pub mod file_lock;
pub mod file_mapping;
pub mod forbidden_call;
pub mod guest_io;
pub mod heap;
pub mod inherited;
pub mod memory;
pub mod perf;
pub mod populated;
pub mod signal;
pub mod tap;
pub mod thread_start;
pub mod uffd;
pub mod uring;
pub mod vcpu_run;
