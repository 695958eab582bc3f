//! Keeps memory that was used once.
//!
//! A network asks for large pieces of memory and gives them back, at every layer. The system's allocator
//! returns each to the kernel, which clears it page by page the next time: a third of the time of a picture.

/// Has freed memory stay with this process, to be used again. The highest memory is the same.
pub(crate) fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const MOST: libc::c_int = libc::c_int::MAX;
        /// Asked of the kernel at a time; what is not touched takes no memory.
        const PAD: libc::c_int = 64 << 20;
        #[expect(unsafe_code, reason = "settings of the allocator; a refused one changes nothing")]
        let set = unsafe {
            [
                libc::mallopt(libc::M_MMAP_THRESHOLD, MOST),
                libc::mallopt(libc::M_TRIM_THRESHOLD, MOST),
                libc::mallopt(libc::M_TOP_PAD, PAD),
            ]
        };
        tracing::debug!("settings of the allocator taken: {set:?}");
    }
}
