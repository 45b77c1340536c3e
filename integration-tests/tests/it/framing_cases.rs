//! Requests of which two servers might see different ends, lines or hosts, and those beside them that are good: from
//! the good ones the app gets what was meant, and of the others nothing that was not. docs/security-model.md says the
//! rules.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

use crate::{
    peer::Peer,
    shop::{self, WEB_MAY_ALL, get_until},
};

/// How long an answer is waited for. Everything here is answered, or the connection ended, at once.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// What comes after each request that is no good, and must never be taken for one.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: orders\r\n\r\n";

/// Good requests, and how many there are in each. `CASE` stands for the case; `HEAD` for a good first line and host,
/// `END` for the end of the connection and of the head.
const GOOD: [(&str, &str, usize); 17] = [
    ("no content", "GET /CASE HTTP/1.1\r\nHost: orders\r\nEND", 1),
    ("a length", "HEADContent-Length: 3\r\nENDabc", 1),
    ("a length of nothing", "HEADContent-Length: 0\r\nEND", 1),
    ("chunks", "HEADTransfer-Encoding: chunked\r\nEND3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 1),
    ("chunked in another case", "HEADtransfer-encoding: CHUNKED\r\nEND3\r\nabc\r\n0\r\n\r\n", 1),
    (
        "sizes in either case",
        "HEADTransfer-Encoding: chunked\r\nENDa\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        1,
    ),
    ("sizes with zeros", "HEADTransfer-Encoding: chunked\r\nEND0003\r\nabc\r\n000\r\n\r\n", 1),
    ("extensions of chunks", "HEADTransfer-Encoding: chunked\r\nEND3;a=b;c\r\nabc\r\n0;d\r\n\r\n", 1),
    ("a trailer", "HEADTransfer-Encoding: chunked\r\nEND3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", 1),
    ("an empty line before", "\r\nHEADContent-Length: 0\r\nEND", 1),
    ("a name in any case", "GET /CASE HTTP/1.1\r\nhOsT: orders\r\nEND", 1),
    ("blanks around a value", "HEADX-A: \t a b \t\r\nContent-Length: 0\r\nEND", 1),
    ("an empty value", "HEADX-A:\r\nContent-Length: 0\r\nEND", 1),
    ("a method of its own", "PURGE /CASE HTTP/1.1\r\nHost: orders\r\nEND", 1),
    ("an absolute target", "GET http://orders/CASE HTTP/1.1\r\nHost: orders\r\nEND", 1),
    ("a host with its port", "GET /CASE HTTP/1.1\r\nHost: ORDERS:8080\r\nEND", 1),
    (
        "two in a row",
        "POST /CASE HTTP/1.1\r\nHost: orders\r\nContent-Length: 3\r\n\r\nabcHEADContent-Length: 0\r\nEND",
        2,
    ),
];

/// What is wrong before the content, and what the answer calls it: the app gets nothing, of what follows neither.
const WRONG_HEADS: [(&str, &str, &str); 55] = [
    (
        "a line that ends in LF",
        "POST /CASE HTTP/1.1\nHost: orders\r\nContent-Length: 0\r\n\r\n",
        "ambiguous_line_end",
    ),
    ("a field that ends in LF", "HEADX-A: b\nContent-Length: 0\r\n\r\n", "ambiguous_line_end"),
    ("a head that ends in LF", "HEADContent-Length: 0\r\n\n", "ambiguous_line_end"),
    ("LF alone", "GET /CASE HTTP/1.1\nHost: orders\n\n", "ambiguous_line_end"),
    ("CR in a value", "HEADX-A: b\rc\r\n\r\n", "ambiguous_line_end"),
    ("CR before CRLF", "HEADX-A: b\r\r\n\r\n", "ambiguous_line_end"),
    ("NUL in a value", "HEADX-A: b\0c\r\n\r\n", "malformed_header"),
    ("a control character in a value", "HEADX-A: b\u{1}c\r\n\r\n", "malformed_header"),
    ("DEL in a value", "HEADX-A: b\u{7f}c\r\n\r\n", "malformed_header"),
    ("a blank before the colon", "HEADX-A : b\r\n\r\n", "malformed_header"),
    ("a blank in a name", "HEADX A: b\r\n\r\n", "malformed_header"),
    ("a tab in a name", "HEADX\tA: b\r\n\r\n", "malformed_header"),
    ("a bracket in a name", "HEADX(A): b\r\n\r\n", "malformed_header"),
    ("a name beyond ASCII", "HEADé: b\r\n\r\n", "malformed_header"),
    ("no name", "HEAD: b\r\n\r\n", "malformed_header"),
    ("no colon", "HEADX-A\r\n\r\n", "malformed_header"),
    ("a folded value", "HEADX-A: b\r\n c\r\n\r\n", "malformed_header"),
    ("a folded value by tab", "HEADX-A: b\r\n\tc\r\n\r\n", "malformed_header"),
    ("a folded host", "GET /CASE HTTP/1.1\r\nHost:\r\n orders\r\n\r\n", "malformed_header"),
    (
        "a blank before the first name",
        "GET /CASE HTTP/1.1\r\n X-A: b\r\nHost: orders\r\n\r\n",
        "malformed_header",
    ),
    ("a blank before the method", " GET /CASE HTTP/1.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("a tab for a blank", "GET\t/CASE HTTP/1.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("no version", "GET /CASE\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("version 0.9", "GET /CASE HTTP/0.9\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("version 1.2", "GET /CASE HTTP/1.2\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("version 2.0", "GET /CASE HTTP/2.0\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("version 11.1", "GET /CASE HTTP/11.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("another protocol's name", "GET /CASE HTTPS/1.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("a version in small letters", "GET /CASE http/1.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("more after the version", "GET /CASE HTTP/1.1 x\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("a bracket in the method", "G(T /CASE HTTP/1.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("no method", "/CASE HTTP/1.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    ("a fragment", "GET /CASE#b HTTP/1.1\r\nHost: orders\r\n\r\n", "fragment_in_target"),
    ("a blank in the target", "GET /CASE b HTTP/1.1\r\nHost: orders\r\n\r\n", "malformed_request"),
    (
        "a control character in the target",
        "GET /CASE\u{1} HTTP/1.1\r\nHost: orders\r\n\r\n",
        "malformed_request",
    ),
    ("a length with a plus", "HEADContent-Length: +3\r\n\r\nabc", "ambiguous_content_length"),
    ("a length with a minus", "HEADContent-Length: -3\r\n\r\nabc", "ambiguous_content_length"),
    ("a length in hexadecimal", "HEADContent-Length: 0x3\r\n\r\nabc", "ambiguous_content_length"),
    ("a length with more after it", "HEADContent-Length: 3 3\r\n\r\nabc", "ambiguous_content_length"),
    ("a list of lengths", "HEADContent-Length: 3, 3\r\n\r\nabc", "ambiguous_content_length"),
    ("an empty length", "HEADContent-Length:\r\n\r\nabc", "ambiguous_content_length"),
    (
        "a length beyond 64 bits",
        "HEADContent-Length: 18446744073709551619\r\n\r\nabc",
        "ambiguous_content_length",
    ),
    ("a length twice", "HEADContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "ambiguous_content_length"),
    ("two lengths", "HEADContent-Length: 3\r\nContent-Length: 0\r\n\r\nabc", "ambiguous_content_length"),
    ("a length with an underscore", "HEADContent_Length: 3\r\n\r\nabc", "ambiguous_content_length"),
    (
        "a length, then chunks",
        "HEADContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "ambiguous_transfer_encoding",
    ),
    (
        "chunks, then a length",
        "HEADTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "ambiguous_transfer_encoding",
    ),
    (
        "chunks twice",
        "HEADTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "ambiguous_transfer_encoding",
    ),
    (
        "chunks in a list",
        "HEADTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "ambiguous_transfer_encoding",
    ),
    (
        "another encoding before chunks",
        "HEADTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "ambiguous_transfer_encoding",
    ),
    (
        "another encoding after chunks",
        "HEADTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "ambiguous_transfer_encoding",
    ),
    ("another encoding", "HEADTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "ambiguous_transfer_encoding"),
    (
        "chunked with a control character",
        "HEADTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
        "malformed_header",
    ),
    (
        "chunked with an underscore",
        "HEADTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        "ambiguous_transfer_encoding",
    ),
    (
        "chunked with a blank before the colon",
        "HEADTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "malformed_header",
    ),
];

/// Where each ends is beyond doubt, but not what it asks for; and what the answer calls it. The app gets nothing.
const WRONG_MEANINGS: [(&str, &str, &str); 15] = [
    ("a value beyond ASCII", "HEADX-A: é\r\nContent-Length: 0\r\nEND", "obs_text"),
    (
        "a value that servers take for a line",
        "HEADX-A: b\u{10d}\u{10a}X-B: c\r\nContent-Length: 0\r\nEND",
        "obs_text",
    ),
    ("a query beyond ASCII", "GET /CASE?a=é HTTP/1.1\r\nHost: orders\r\nEND", "obs_text"),
    ("a target without a slash", "GET CASE HTTP/1.1\r\nHost: orders\r\nEND", "bad_request"),
    ("a backslash in the target", "GET /CASE\\b HTTP/1.1\r\nHost: orders\r\nEND", "ambiguous_path"),
    ("no host", "GET /CASE HTTP/1.1\r\nX-A: b\r\nEND", "bad_request"),
    ("no host beside an absolute target", "GET http://orders/CASE HTTP/1.1\r\nX-A: b\r\nEND", "bad_request"),
    ("an empty host", "GET /CASE HTTP/1.1\r\nHost:\r\nEND", "bad_request"),
    ("two hosts", "GET /CASE HTTP/1.1\r\nHost: orders\r\nHost: orders\r\nEND", "ambiguous_host"),
    (
        "two hosts that differ",
        "GET /CASE HTTP/1.1\r\nHost: orders\r\nhost: payments\r\nEND",
        "ambiguous_host",
    ),
    ("hosts in a list", "GET /CASE HTTP/1.1\r\nHost: orders, payments\r\nEND", "bad_request"),
    ("a host with a user", "GET /CASE HTTP/1.1\r\nHost: a@orders\r\nEND", "bad_request"),
    ("a host with a path", "GET /CASE HTTP/1.1\r\nHost: orders/a\r\nEND", "bad_request"),
    ("a host with a large port", "GET /CASE HTTP/1.1\r\nHost: orders:73616\r\nEND", "bad_request"),
    (
        "another host than the target's",
        "GET http://payments/CASE HTTP/1.1\r\nHost: orders\r\nEND",
        "bad_request",
    ),
];

/// What is wrong in chunks: the app may have the head by then, and never a whole request.
const WRONG_CHUNKS: [(&str, &str); 16] = [
    ("no size", "\r\nabc\r\n0\r\n\r\n"),
    ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a plus", "+3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a minus", "-3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a blank before it", " 3\r\nabc\r\n0\r\n\r\n"),
    ("a size that is no number", "g\r\nabc\r\n0\r\n\r\n"),
    ("a size with an underscore", "1_0\r\nabc\r\n0\r\n\r\n"),
    ("a size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("a size that ends in LF", "3\nabc\r\n0\r\n\r\n"),
    ("a size that ends in CR", "3\rabc\r\n0\r\n\r\n"),
    ("LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("more content than the size", "3\r\nabcd\r\n0\r\n\r\n"),
    ("content that ends in LF", "3\r\nabc\n0\r\n\r\n"),
    ("a trailer that ends in LF", "3\r\nabc\r\n0\r\nX-A: b\n\r\n"),
    ("a trailer without a colon", "3\r\nabc\r\n0\r\nX-A\r\n\r\n"),
    ("a last chunk that ends in LF", "3\r\nabc\r\n0\n\r\n"),
];

/// What is due to a request.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// This many answers.
    Served(usize),
    /// A 400 with this name, and the end of the connection.
    Refused(&'static str),
    /// No whole request, and the end of the connection.
    BrokenOff,
}

fn written(text: &str, number: usize) -> String {
    text.replace("HEAD", "POST /CASE HTTP/1.1\r\nHost: orders\r\n")
        .replace("END", "Connection: close\r\n\r\n")
        .replace("CASE", &format!("case{number}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_one_reading_passes_and_what_has_two_reaches_no_app() {
    let (mesh, app, orders, web) = shop::trading_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let before = app.heads().len();
    let peer = Arc::new(Peer::join(&mesh, "web").await);
    let good = GOOD.iter().map(|(title, text, count)| (*title, (*text).to_owned(), Due::Served(*count)));
    let heads = WRONG_HEADS
        .iter()
        .map(|(title, text, name)| (*title, format!("{text}{SMUGGLED}"), Due::Refused(name)));
    let chunks = WRONG_CHUNKS.iter().map(|(title, text)| {
        (*title, format!("HEADTransfer-Encoding: chunked\r\n\r\n{text}{SMUGGLED}"), Due::BrokenOff)
    });
    let meanings =
        WRONG_MEANINGS.iter().map(|(title, text, name)| (*title, (*text).to_owned(), Due::Refused(name)));
    let cases: Vec<_> = good.chain(heads).chain(meanings).chain(chunks).collect();

    let mut asking = JoinSet::new();
    for (number, (_, text, _)) in cases.iter().enumerate() {
        let (peer, text, address) = (Arc::clone(&peer), written(text, number), orders.inbound(8080));
        asking.spawn(async move { (number, answer(&peer, address, text.as_bytes()).await) });
    }
    let mut answers = vec![String::new(); cases.len()];
    while let Some(answered) = asking.join_next().await {
        let (number, answer) = answered.unwrap();
        answers[number] = answer;
    }
    let seen = app.heads().split_off(before);
    let mut faults = Vec::new();
    for (number, (title, _, due)) in cases.iter().enumerate() {
        let target = format!("/case{number} ");
        let came = seen.iter().filter(|head| head[0].contains(&target)).count();
        let answer = &answers[number];
        let is_as_it_should_be = !answer.ends_with(" and waits for more")
            && match due {
                Due::Served(count) => came == *count && answer.matches("HTTP/1.1 200 ").count() == *count,
                // One answer, and nothing after it.
                Due::Refused(name) => {
                    let is_named = answer.contains(&format!("\r\nhauberk-error: {name}\r\n"));
                    came == 0
                        && answer.starts_with("HTTP/1.1 400 ")
                        && is_named
                        && answer.matches("HTTP/1.1 ").count() == 1
                }
                Due::BrokenOff => came <= 1 && !answer.starts_with("HTTP/1.1 2"),
            };
        if !is_as_it_should_be {
            faults.push(format!("{title}: {came} came, {answer:?}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(!seen.iter().any(|head| head[0].contains("smuggled")), "{seen:?}");
    // Nothing that is left of any of them stands in the way.
    get_until(&web, "orders", "/after", 200);
}

/// All that comes back until the connection ends.
async fn answer(peer: &Peer, address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = peer.connect("orders", address, &[b"http/1.1"]).await.unwrap();
    let mut answer = Vec::new();
    let talk = async {
        // It may be refused before all of it has been read.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    let ended = timeout(ANSWERED_WITHIN, talk).await;
    let end = if ended.is_ok() { "" } else { " and waits for more" };
    format!("{}{end}", String::from_utf8_lossy(&answer))
}
