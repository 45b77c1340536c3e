//! The signals that end us, and those that are for the child alone.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// Everything that may come.
#[derive(Debug)]
pub(super) struct Signals {
    term: unix::Signal,
    int: unix::Signal,
    hup: unix::Signal,
    usr1: unix::Signal,
    usr2: unix::Signal,
    quit: unix::Signal,
}

impl Signals {
    /// Takes the signals over from their defaults.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one. Safe to drop while waiting.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::TERM,
            _ = self.int.recv() => Signal::INT,
            _ = self.hup.recv() => Signal::HUP,
            _ = self.usr1.recv() => Signal::USR1,
            _ = self.usr2.recv() => Signal::USR2,
            _ = self.quit.recv() => Signal::QUIT,
        }
    }

    /// The next one that ends us; the others are passed over.
    pub(super) async fn next_stop(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if is_stop(signal) {
                return signal;
            }
        }
    }
}

/// Whether a signal ends us.
pub(super) fn is_stop(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::INT)
}

/// The exit code of a program that a signal ended.
pub(super) fn exit_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}
