//! An allocator that counts what each thread holds.
#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes held now and most bytes held: of this thread, since the last `peak`.
    static METER: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn note(bytes: i64) {
    let _ = METER.try_with(|meter| {
        let (held, peak) = meter.get();
        meter.set((held + bytes, peak.max(held + bytes)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the meter takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may be held at once.
        note(size as i64);
        let new = unsafe { System.realloc(ptr, layout, size) };
        note(-(layout.size() as i64));
        new
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f`; its result, and the most bytes that this thread held at once beyond what it held before.
pub(crate) fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    METER.set((0, 0));
    let out = f();
    (out, METER.get().1 as usize)
}
