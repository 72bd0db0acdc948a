//! Settings of the memory allocator.

/// How much free memory at the top of the heap the allocator keeps, in bytes.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 1 << 20;

/// Makes the allocator keep up to 1 MiB of freed memory instead of returning it to the kernel at once.
///
/// By default glibc returns free memory at the top of the heap as soon as it exceeds 128 KiB. A thread that starts and ends a
/// probe every millisecond would then spend a tenth of its time on returning and requesting the same pages. Setting the trim
/// threshold also fixes the mmap threshold at 128 KiB (mallopt(3)), so that the memory of a large `/metrics` page is returned
/// as soon as the page has been sent.
pub fn raise_trim_threshold() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers and may be called at any time. If it fails, nothing changes.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}
