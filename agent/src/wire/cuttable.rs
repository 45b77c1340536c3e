//! A stream that breaks as soon as its connection is cut, whichever task reads it.
//!
//! hyper drives a client's HTTP/2 in a task of its own, which goes on for as long as there are streams, whatever
//! becomes of what was handed out: only the stream below can end it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::transport::Transport;
use crate::connections::Registered;

/// The stream, and its place in the registry if it goes to another agent.
#[derive(Debug)]
pub(crate) struct Cuttable {
    stream: Transport,
    lease: Option<Registered>,
}

impl Cuttable {
    /// This stream, which must be read all the time to be cut in time.
    pub(crate) fn new(stream: Transport, lease: Option<Registered>) -> Self {
        Self { stream, lease }
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.lease.as_ref().is_some_and(|lease| lease.connection().poll_cut(cx)) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut"));
        }
        Ok(())
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
