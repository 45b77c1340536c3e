//! A local app's socket, as hyper has it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Whether answers to an app may have an end that nothing but that of their connection tells, as of HTTP/1.0 without a length (RFC 9112
/// §6.3), and whether they have come to it: of one that is broken off, a plain end would pass for a whole one.
#[derive(Debug, Clone, Default)]
pub(super) struct EndTells(Arc<EndTold>);

#[derive(Debug, Default)]
struct EndTold {
    is_by_close: AtomicBool,
    is_whole: AtomicBool,
    is_amid: AtomicBool,
}

impl EndTells {
    /// The answer that begins ends with its connection: nothing comes after it.
    pub(super) fn by_close(&self) {
        self.0.is_by_close.store(true, Ordering::Release);
    }

    /// What was served on it has ended well.
    pub(super) fn with_all(&self) {
        self.0.is_whole.store(true, Ordering::Release);
    }

    /// What the connection has changed to, when HTTP had ended well on it, breaks off.
    pub(super) fn amid(&self) {
        self.0.is_amid.store(true, Ordering::Release);
    }

    fn asks_for_reset(&self) -> bool {
        self.0.is_amid.load(Ordering::Acquire)
            || self.0.is_by_close.load(Ordering::Acquire) && !self.0.is_whole.load(Ordering::Acquire)
    }
}

/// The socket, which is reset at its end where that would tell a lie.
#[derive(Debug)]
pub(super) struct AppSocket {
    /// Until it is taken.
    stream: Option<TcpStream>,
    end: EndTells,
}

impl AppSocket {
    pub(super) fn new(stream: TcpStream, end: EndTells) -> Self {
        Self { stream: Some(stream), end }
    }

    /// The bare socket, which no longer carries HTTP.
    pub(super) fn into_stream(mut self) -> Option<TcpStream> {
        self.stream.take()
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for AppSocket {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.end.asks_for_reset()) {
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for AppSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for AppSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(TcpStream::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
