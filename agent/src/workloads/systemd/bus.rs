//! One conversation with systemd over the system's message bus.

use std::io;
use std::path::Path;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::super::looks::LookError;
use super::message::{self, Call, MalformedError, PREAMBLE, Received};

const SYSTEMD: &str = "org.freedesktop.systemd1";

/// The longest line while the bus looks at who we are, in bytes.
const LONGEST_LINE: u64 = 1024;

/// How many messages that answer nothing are passed over.
const MOST_OTHERS: usize = 64;

/// Connected, and known to the bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
}

/// Why systemd did not tell. The fault is the system's.
#[derive(Debug, Error)]
pub(crate) enum BusError {
    /// See [`LookError`].
    #[error(transparent)]
    Look(#[from] LookError),
    /// /proc does not tell the unit.
    #[error("its control groups cannot be read: {0}")]
    Proc(io::Error),
    /// There is no bus, or it went away.
    #[error("the system's message bus: {0}")]
    Io(#[from] io::Error),
    /// The bus does not let us in.
    #[error("the system's message bus does not let us in: {0}")]
    Refused(String),
    /// See [`MalformedError`].
    #[error(transparent)]
    Malformed(#[from] MalformedError),
    /// systemd says no.
    #[error("systemd answers {0}")]
    Answer(String),
    /// It takes too long.
    #[error("systemd does not answer")]
    TimedOut,
}

impl Bus {
    /// Connects as the user that we are (D-Bus Specification, "Authentication Protocol").
    pub(super) async fn connect(path: &Path) -> Result<Self, BusError> {
        let mut stream = BufReader::new(UnixStream::connect(path).await?);
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        let mut line = String::new();
        (&mut stream).take(LONGEST_LINE).read_line(&mut line).await?;
        if !line.starts_with("OK ") {
            return Err(BusError::Refused(line.trim_end().to_owned()));
        }
        stream.write_all(b"BEGIN\r\n").await?;
        let mut bus = Self { stream, serial: 0 };
        let hello = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            arguments: &[],
        };
        bus.call(hello).await?;
        Ok(bus)
    }

    /// The file that a unit was read from; empty where there is none.
    pub(super) async fn fragment_path(&mut self, unit: &str) -> Result<String, BusError> {
        let object = self
            .call(Call {
                destination: SYSTEMD,
                path: "/org/freedesktop/systemd1",
                interface: "org.freedesktop.systemd1.Manager",
                member: "GetUnit",
                arguments: &[unit],
            })
            .await?;
        self.call(Call {
            destination: SYSTEMD,
            path: &object,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            arguments: &["org.freedesktop.systemd1.Unit", "FragmentPath"],
        })
        .await
    }

    async fn call(&mut self, call: Call<'_>) -> Result<String, BusError> {
        self.serial += 1;
        self.stream.write_all(&call.encode(self.serial)).await?;
        for _ in 0..MOST_OTHERS {
            let mut message = vec![0; PREAMBLE];
            self.stream.read_exact(&mut message).await?;
            let rest = message::rest_of(message.first_chunk().ok_or(MalformedError)?)?;
            message.resize(PREAMBLE + rest, 0);
            self.stream.read_exact(message.get_mut(PREAMBLE..).ok_or(MalformedError)?).await?;
            match message::decode(&message)? {
                Received::Return { to, text } if to == self.serial => return Ok(text),
                Received::Error { to, name } if to == self.serial => return Err(BusError::Answer(name)),
                _ => {}
            }
        }
        Err(BusError::TimedOut)
    }
}
