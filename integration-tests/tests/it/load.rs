//! A steady load on one service, and what became of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hauberk_integration_tests::{eventually, get};

/// Calls a service from a few threads, each call over a connection of its own, until it is stopped.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Begins to call `service` by way of the agent that listens at `outbound`.
    pub(crate) fn start(outbound: SocketAddr, service: &'static str) -> Self {
        Self::with_pauses(outbound, service, Duration::ZERO)
    }

    /// The same with a pause after each call: a load for minutes that leaves the processor to others.
    pub(crate) fn with_pauses(outbound: SocketAddr, service: &'static str, pause: Duration) -> Self {
        let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..4)
            .map(|_| {
                let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
                thread::spawn(move || call_until(&is_over, &answered, (outbound, service), pause))
            })
            .collect();
        Self { is_over, answered, threads }
    }

    /// Waits until this many more calls have been answered.
    pub(crate) fn wait_for(&self, more: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        eventually(&format!("{more} more calls are answered"), Duration::from_secs(30), || {
            let is_running = self.threads.iter().any(|thread| !thread.is_finished());
            (!is_running || self.answered.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }

    /// Ends it. Panics if a call has failed.
    pub(crate) fn finish(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let failed: Vec<String> = self
            .threads
            .drain(..)
            .flat_map(|thread| thread.join().expect("the load does not panic"))
            .collect();
        let answered = self.answered.load(Ordering::Relaxed);
        assert!(failed.is_empty(), "{} calls failed of {answered}: {failed:?}", failed.len());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn call_until(
    over: &AtomicBool,
    answered: &AtomicU64,
    (outbound, service): (SocketAddr, &str),
    pause: Duration,
) -> Vec<String> {
    let mut failed = Vec::new();
    // A few failures say enough.
    while !over.load(Ordering::Relaxed) && failed.len() < 5 {
        match get(outbound, service, "/load") {
            Ok(response) if response.status == 200 => {}
            Ok(response) => {
                failed.push(format!("{} {:?} {}", response.status, response.headers, response.body))
            }
            Err(error) => failed.push(error.to_string()),
        }
        answered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(pause);
    }
    failed
}
