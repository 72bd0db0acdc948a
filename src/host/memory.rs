//! How freed memory goes back to the system.

/// How much free memory at the end of a heap is kept for the next use, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;

/// Has the allocator keep a little of what is freed, in place of giving it back at once.
///
/// By itself glibc gives back what exceeds 128 KiB, page by page: a thread that makes and ends a probe every millisecond would
/// spend a tenth of its time on memory that comes and goes. Setting this also fixes the size from which a block has a mapping
/// of its own at 128 KiB, so that the text of a large scrape is gone as soon as it is sent (mallopt(3)).
pub fn keep_a_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers, and may be called at any time. Where it fails all stays as it was.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
