//! The requests of llhttp's own tests, which Node's server reads: where it finds a fault, the app gets no request, and
//! nowhere does it get one more than there are.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use hauberk_integration_tests::shared;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

use crate::{
    peer::Peer,
    shop::{self, WEB_MAY_ALL, get_until},
};

/// How long an answer is waited for: some of the requests never end.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// What llhttp refuses and an agent does not, with the reason.
const NO_FAULTS: [(&str, &str); 3] = [
    ("No extension after semicolon", "extensions of chunks come to no app: an agent frames a body anew"),
    ("Invalid method", "methods that llhttp does not know are policies' to decide"),
    ("HTTP protocol and ANNOUNCE method", "methods that llhttp does not know are policies' to decide"),
];

/// One of the requests, and what the parser found in it.
struct Case {
    title: String,
    request: String,
    /// How many messages it begins.
    begun: usize,
    /// What is wrong with the first, and whether its head was still good.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    InHead,
    InBody,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_parser_finds_wrong_reaches_no_app() {
    let Some(folder) = shared("vectors/http1/llhttp/request") else { return };
    let mut cases = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        cases.extend(cases_of(&fs::read_to_string(file.unwrap().path()).unwrap()));
    }
    assert!(cases.len() > 90, "{}", cases.len());
    assert!(cases.iter().filter(|case| case.fault.is_some()).count() > 15);
    let (mesh, app, orders, web) = shop::trading_by("all", WEB_MAY_ALL);
    get_until(&web, "orders", "/", 200);
    let peer = Arc::new(Peer::join(&mesh, "web").await);
    let before = app.heads().len();

    let mut asking = JoinSet::new();
    for (number, case) in cases.iter().enumerate() {
        let (peer, bytes) = (Arc::clone(&peer), marked(&case.request, number));
        let address = orders.inbound(8080);
        asking.spawn(async move { (number, answer(&peer, address, bytes).await) });
    }
    let mut answers = vec![String::new(); cases.len()];
    while let Some(answered) = asking.join_next().await {
        let (number, answer) = answered.unwrap();
        answers[number] = answer;
    }

    let heads = app.heads().split_off(before);
    let (mut good, mut wrong) = (0, Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let marker = format!("x-case: {number}");
        let seen = heads.iter().filter(|head| head.contains(&marker)).count();
        let (title, answer) = (&case.title, &answers[number]);
        let is_good = answer.starts_with("HTTP/1.1 2");
        good += usize::from(is_good);
        assert!(seen <= 1, "{title}: {heads:?}");
        let is_known = NO_FAULTS.iter().any(|(known, _)| known == title);
        let came = seen > 0 && case.fault == Some(Fault::InHead);
        if (came || is_good && case.fault.is_some()) && !is_known {
            wrong.push(title);
        }
    }
    assert!(wrong.is_empty(), "answered as if they were good: {wrong:?}");
    assert!(good > 30, "only {good} were answered as good");
    let unmarked = heads.iter().filter(|head| !head.iter().any(|line| line.starts_with("x-case: "))).count();
    let more: usize = cases.iter().map(|case| case.begun.saturating_sub(1)).sum();
    assert!(unmarked <= more, "{unmarked} requests came from inside of others: {heads:?}");
    get_until(&web, "orders", "/after", 200);
}

async fn answer(peer: &Peer, address: SocketAddr, bytes: Vec<u8>) -> String {
    let mut stream = peer.connect("orders", address, &[b"http/1.1"]).await.unwrap();
    let mut answer = Vec::new();
    let talk = async {
        // It may be refused before all of it has been read.
        let _ = stream.write_all(&bytes).await;
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..read]);
        }
    };
    let _ended = timeout(ANSWERED_WITHIN, talk).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The request with a host where it has none, and its number.
fn marked(request: &str, number: usize) -> Vec<u8> {
    let begin = request.len() - request.trim_start_matches(['\r', '\n']).len();
    let end = request[begin..].find('\n').map_or(request.len(), |end| begin + end + 1);
    let has_host = request.to_ascii_lowercase().contains("\nhost:");
    let host = if has_host { "" } else { "Host: orders\r\n" };
    format!("{}{host}x-case: {number}\r\n{}", &request[..end], &request[end..]).into_bytes()
}

/// The cases of a file in which the parser was as strict as it is by default.
fn cases_of(text: &str) -> Vec<Case> {
    let (mut title, mut is_strict, mut request) = (String::new(), false, None::<String>);
    let mut cases = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            title = line.trim_start_matches('#').trim().to_owned();
        } else if let Some(meta) = line.strip_prefix("<!-- meta=") {
            is_strict = meta.replace(' ', "").contains("\"type\":\"request\"");
        } else if line == "```http" {
            request = Some(fence(&mut lines).join("\n"));
        } else if line == "```log" {
            let log = fence(&mut lines);
            if let (true, Some(request)) = (is_strict, request.take()) {
                cases.push(Case::new(&title, &request, &log));
            }
        }
    }
    cases
}

fn fence<'t>(lines: &mut impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    lines.take_while(|line| !line.starts_with("```")).collect()
}

impl Case {
    fn new(title: &str, request: &str, log: &[&str]) -> Self {
        let at = |what: &str| log.iter().position(|line| line.contains(what));
        let wrong =
            log.iter().position(|line| line.contains(" error code=") && !line.contains("reason=\"Pause"));
        let is_first = |wrong: &usize| at("message complete").is_none_or(|complete| *wrong < complete);
        let fault = wrong.filter(is_first).map(|wrong| match at("headers complete") {
            Some(head) if head < wrong => Fault::InBody,
            _ => Fault::InHead,
        });
        let begun = log.iter().filter(|line| line.contains("message begin")).count();
        Self { title: title.to_owned(), request: unescaped(request), begun, fault }
    }
}

/// As llhttp's own tests read their files: lines end in CRLF, a backslash at the end joins two, and escapes stand for
/// characters.
fn unescaped(text: &str) -> String {
    let joined = text.replace("\\\n", "").replace('\n', "\r\n");
    let plain = [("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\u{c}")];
    let text = plain.iter().fold(joined, |text, (escape, character)| text.replace(escape, character));
    let mut parts = text.split("\\x");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        match part.get(..2).map(|digits| (u8::from_str_radix(digits, 16), &part[2..])) {
            Some((Ok(byte), rest)) => format!("{text}{}{rest}", char::from(byte)),
            _ => format!("{text}\\x{part}"),
        }
    })
}
