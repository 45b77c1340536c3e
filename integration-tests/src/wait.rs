//! Waiting for values.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Asks `probe` again and again until it gives a value; panics with `what` after `deadline`.
pub fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begun.elapsed() < deadline, "did not come about within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The same for a probe that awaits.
pub async fn eventually_async<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(begun.elapsed() < deadline, "did not come about within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The ports that are given out: below those that systems give to whoever asks for any, so that nobody else is given
/// one of them between two starts of the same listener, or while a test counts on nobody listening there.
const PORTS: Range<u32> = 10_000..32_000;

/// An address of the loopback that nobody listens on, and that nobody is given but by this.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let width = PORTS.end - PORTS.start;
    // Processes that run side by side begin at places of their own.
    let begin = std::process::id().wrapping_mul(1_009);
    for _ in PORTS {
        let place = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % width;
        let port = u16::try_from(PORTS.start + place).unwrap();
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr().unwrap();
        }
    }
    panic!("no port of {PORTS:?} is free");
}
