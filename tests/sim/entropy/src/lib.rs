//! Randomness from a seed, for the thread that asks for it: the simulation has to run the same way
//! twice. `std` (the order of hash maps, and with it tokio's choice between ready branches) takes its
//! entropy from the C function `getrandom`, and lets a program put its own in its place. Only the
//! simulation depends on this crate; the daemon never does.

use std::cell::Cell;
use std::ffi::c_void;
use std::io::Read;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's entropy follows from `seed`.
pub fn seed(seed: u64) {
    STATE.set(Some(seed));
}

/// The next number of this thread's seed; of the system where it has none.
pub fn next() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn fill(bytes: &mut [u8]) {
    let Some(mut state) = STATE.get() else {
        if let Ok(mut system) = std::fs::File::open("/dev/urandom") {
            let _short = system.read_exact(bytes);
        }
        return;
    };
    for chunk in bytes.chunks_mut(8) {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
    }
    STATE.set(Some(state));
}

/// What the C library offers under this name.
///
/// # Safety
/// `buffer` must be valid for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller vouches for the buffer.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    fill(bytes);
    isize::try_from(length).unwrap_or(isize::MAX)
}
