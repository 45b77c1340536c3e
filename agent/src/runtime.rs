//! The threads of the agent.

use tokio::runtime::{Builder, Runtime};

use crate::workloads::LOOKS_AT_ONCE;

/// Enough for a sidecar; more would only cost memory.
const MAX_WORKERS: usize = 4;

/// Threads for what waits for a disk or for names to resolve: views are prepared and trust is kept on them. Looks at
/// programs, which may wait for ever, have threads beside them.
pub(crate) const OF_OUR_OWN: usize = 8;

/// Makes them.
///
/// # Errors
/// The system has none left.
pub fn build() -> std::io::Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(OF_OUR_OWN + LOOKS_AT_ONCE)
        .enable_all()
        .build()
}
