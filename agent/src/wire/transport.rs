//! The two kinds of stream that HTTP runs over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hauberk_tls::TlsStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::budget::SocketPlace;

/// A stream to an app on loopback, or to another agent, and its socket's place.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Plain, to the app beside us.
    Plain {
        /// The stream.
        stream: TcpStream,
        _place: SocketPlace,
    },
    /// Mutually authenticated, between agents.
    Tls {
        /// The stream.
        stream: Box<TlsStream<TcpStream>>,
        _place: SocketPlace,
    },
}

impl Transport {
    /// To the app beside us.
    pub(crate) fn plain(stream: TcpStream, place: SocketPlace) -> Self {
        Self::Plain { stream, _place: place }
    }

    /// To another agent.
    pub(crate) fn tls(stream: TlsStream<TcpStream>, place: SocketPlace) -> Self {
        Self::Tls { stream: Box::new(stream), _place: place }
    }

    /// Its end will not pass for one of the other side's own. Over TLS it does not in any case, without a close_notify.
    pub(crate) fn break_off(&self) {
        if let Self::Plain { stream, .. } = self {
            // Only a courtesy to the peer of a socket that may be broken anyhow.
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_read(cx, buf),
            Self::Tls { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_write(cx, buf),
            Self::Tls { stream, .. } => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain { stream, .. } => stream.is_write_vectored(),
            Self::Tls { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_flush(cx),
            Self::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Self::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
