//! Apps beside agents.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

type Body = BoxBody<Bytes, hyper::Error>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// Answers what it received.
pub async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/ws" && request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        response.headers_mut().insert("upgrade", HeaderValue::from_static("echo"));
        return Ok(response);
    }
    if path == "/echo" || path == "/shop.Orders/Echo" {
        let mut response = Response::new(request.into_body().boxed());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/octet-stream"));
        return Ok(response);
    }
    if path == "/shop.Orders/Flood" {
        return Ok(Response::new(full(vec![b'x'; 4 << 20])));
    }
    if path == "/trailers" || path.starts_with("/shop.Orders/") {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("hauberk-forged", HeaderValue::from_static("yes"));
        let frames = [Ok(Frame::data(Bytes::from_static(b"message"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut response = Response::new(BodyExt::boxed(body));
        response.headers_mut().insert("trailer", HeaderValue::from_static("grpc-status"));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        return Ok(response);
    }
    if path == "/hang" {
        std::future::pending::<()>().await;
    }
    let mut lines = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        lines.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    lines.push_str(&format!("\n{} bytes\n", body.len()));
    let mut response = Response::new(full(lines));
    response
        .headers_mut()
        .insert(HeaderName::from_static("hauberk-decision"), HeaderValue::from_static("forged-by-app"));
    Ok(response)
}

pub async fn http1_app(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            serving.spawn(async move { drop(connection.with_upgrades().await) });
        }
    });
    address
}

pub async fn http2_app(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let builder = http2::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
            serving.spawn(async move { drop(connection.await) });
        }
    });
    address
}

/// Takes one connection, and no other.
pub async fn http2_app_of_one_connection(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let builder = http2::Builder::new(TokioExecutor::new());
        drop(builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
    });
    address
}

/// Sends everything back; at the end of what it reads, says so and closes.
pub async fn tcp_app(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            serving.spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let mut buffer = vec![0; 64 << 10];
                while let Ok(read @ 1..) = reader.read(&mut buffer).await {
                    if writer.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
                let _ = writer.write_all(b"bye").await;
                let _ = writer.shutdown().await;
            });
        }
    });
    address
}
