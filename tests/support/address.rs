//! Loopback addresses of one test alone, so that its servers listen at ports of their choice.

use std::{
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

/// An address where nobody listens at `ports`, and that no other test of this process is given (250 of them).
/// Looks whether anyone listens rather than binding: a child that another test forks at that moment would inherit the
/// bound socket until it executes, and the server would find its port taken. A free port of 127.0.0.1 is no way out:
/// until the server binds it, the kernel gives it to outgoing connections.
pub(crate) fn own_address(ports: &[u16]) -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    std::iter::repeat_with(|| Ipv4Addr::new(127, (pid >> 8) as u8 | 0x80, pid as u8, NEXT.fetch_add(1, Relaxed)))
        .take(250)
        .find(|address| ports.iter().all(|port| TcpStream::connect((*address, *port)).is_err()))
        .expect("a free address")
}
