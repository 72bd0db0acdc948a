//! When freed memory is returned to the kernel.

/// How much free memory at the end of a heap is kept for the next use, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;

/// Has the allocator keep some freed memory instead of returning it to the kernel at once (mallopt(3)).
///
/// By default glibc returns what exceeds 128 KiB at the end of a heap. A thread that begins and ends a probe every millisecond
/// would spend a tenth of its time on that. Setting the threshold also fixes the size from which a block has a mapping of its
/// own at 128 KiB, so that the memory of a large scrape is returned as soon as the scrape is sent.
pub fn keep_a_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers, and may be called at any time. Where it fails, nothing changes.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
