//! The C library's heap.
#![expect(unsafe_code, reason = "mallopt is a C function")]

/// Has all threads share `count` separate areas of the heap at most, as far as the C library has such.
///
/// glibc otherwise decides by the number of processors, once there are more than eight: it looks for
/// that in files or asks the scheduler, on whichever thread happens to allocate.
pub fn limit_arenas(count: u8) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt may be called at any time, and takes any number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count.into());
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}
