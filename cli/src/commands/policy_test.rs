//! `hauberk policy test`

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hauberk_proto::admin::v1::policy_test::Expectation;
use hauberk_proto::admin::v1::{
    CheckRequest, OfflineAnswer, OfflineTest, Outlook, PolicyFacts, PolicyTest as Assertion, TestAnswer,
    TestRequest, TestResponse,
};
use hauberk_proto::agent::v1::HeaderLines;
use owo_colors::OwoColorize as _;
use prost::Message as _;
use prost_types::{ListValue, Value, value};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::arguments::{Global, PolicyTest};
use crate::commands::{apply, decision, prospect};
use crate::documents::{self, Assertions, Documents, json_of, read_assertions};
use crate::error::CommandError;
use crate::output::{self, printable};
use crate::session::Session;
use crate::times;

/// The program that answers without a control plane: it is the control plane's own, so that what is tested is what will
/// hold.
const ANSWERER: &str = "hauberk-control-plane";

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many questions are asked at once.
const BATCH: usize = 500;

/// What a test exits with that could not be run.
const TROUBLE: u8 = 2;

/// Runs the command.
///
/// # Errors
/// `Exit(1)` where an assertion does not hold, `Exit(2)` where they could not be asked.
pub(crate) async fn run(global: &Global, arguments: PolicyTest) -> Result<(), CommandError> {
    match test(global, arguments).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(CommandError::Exit(1)),
        Err(error) => Err(error.exiting(TROUBLE, &global.of_context())),
    }
}

/// Who answers.
enum Source {
    Live(Box<Session>),
    Files { documents: Documents, trust_domain: String },
}

/// Gives the number of assertions that do not hold.
async fn test(global: &Global, arguments: PolicyTest) -> Result<usize, CommandError> {
    let mut files = Vec::new();
    for path in &arguments.tests {
        files.extend(read_assertions(path)?);
    }
    // What asserts nothing would pass whatever policies say.
    if let Some(empty) = files.iter().find(|file| file.tests().tests.is_empty()) {
        let message = format!("{} has no tests", empty.name());
        return Err(CommandError::advised(message, "write some below `tests:`"));
    }
    let named = named_trust_domain(&files)?;
    let mut source = if arguments.files.is_empty() {
        let session = Session::open(global).await?;
        is_of(named, &session.context.trust_domain)?;
        Source::Live(Box::new(session))
    } else {
        let documents = documents::read(&arguments.files, global.mesh.as_deref())?;
        if global.context.is_some() {
            is_of(named, apply::trust_domain_of(&documents, global)?.as_str())?;
        }
        let trust_domain = match named {
            Some(file) => file.tests().trust_domain.clone(),
            None => apply::trust_domain_of(&documents, global)?.to_string(),
        };
        Source::Files { documents, trust_domain }
    };
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let questions = questions(&mut source, global, &file).await?;
        let mut answers = Vec::with_capacity(questions.len());
        for batch in questions.chunks(BATCH) {
            answers.extend(source.ask(batch.to_vec()).await?.answers);
        }
        if answers.len() != questions.len() {
            return Err(CommandError::failed("there are fewer answers than questions"));
        }
        for (index, (assertion, answer)) in file.tests().tests.iter().zip(&answers).enumerate() {
            match complaint(assertion, answer) {
                None => passed += 1,
                Some(complaint) => {
                    failed += 1;
                    output::line(report(&file, index, assertion, &complaint))?;
                }
            }
        }
    }
    let count = format!("{passed} passed, {failed} failed");
    output::line(if failed == 0 { count.green().to_string() } else { count.red().bold().to_string() })?;
    Ok(failed)
}

/// The file that names the trust domain of all, if one does.
fn named_trust_domain(files: &[Assertions]) -> Result<Option<&Assertions>, CommandError> {
    let mut naming = files.iter().filter(|file| !file.tests().trust_domain.is_empty());
    let Some(first) = naming.next() else { return Ok(None) };
    naming.try_for_each(|other| is_of(Some(other), &first.tests().trust_domain))?;
    Ok(Some(first))
}

/// Refuses a file that is about another trust domain than the one that is asked: names would mean somebody else.
fn is_of(file: Option<&Assertions>, asked: &str) -> Result<(), CommandError> {
    let Some(file) = file.filter(|file| file.tests().trust_domain != asked) else { return Ok(()) };
    let own = printable(&file.tests().trust_domain);
    let message = format!(
        "these tests are about {own}, and others of this command, or its context, about {}; test each by itself",
        printable(asked)
    );
    Err(file.wrong("trustDomain".to_owned(), message).into())
}

/// The assertions as questions.
async fn questions(
    source: &mut Source,
    global: &Global,
    file: &Assertions,
) -> Result<Vec<CheckRequest>, CommandError> {
    let mesh = match (&file.tests().mesh, &global.mesh, &*source) {
        (named, Some(flag), _) if !named.is_empty() && named != flag => {
            let (named, flag) = (printable(named), printable(flag));
            let message = format!(
                "these tests are about mesh {named}, while --mesh or HAUBERK_MESH says {flag}: leave that out"
            );
            return Err(file.wrong("mesh".to_owned(), message).into());
        }
        (named, _, _) if !named.is_empty() => named.clone(),
        (_, Some(named), _) => named.clone(),
        (_, None, Source::Live(session)) => session.mesh().await?,
        (_, None, Source::Files { documents, .. }) => {
            let meshes = documents.meshes();
            match &meshes[..] {
                [only] => only.clone(),
                _ => {
                    let message = format!("which mesh? Write `mesh: NAME` into {}", file.name());
                    return Err(CommandError::Usage(message));
                }
            }
        }
    };
    let mut questions = Vec::new();
    for (index, assertion) in file.tests().tests.iter().enumerate() {
        let path = |field: &str| format!("tests[{index}]{field}");
        let wrong = |field: &str, message: String| CommandError::from(file.wrong(path(field), message));
        let (word, facts) = match &assertion.expectation {
            Some(Expectation::Allow(facts)) => ("allow", facts),
            Some(Expectation::Deny(facts)) => ("deny", facts),
            Some(Expectation::Conditional(facts)) => ("conditional", facts),
            None => return Err(wrong("", "expected `allow`, `deny` or `conditional`".to_owned())),
        };
        let question = question(&mesh, facts);
        questions.push(question.map_err(|(field, message)| wrong(&format!(".{word}.{field}"), message))?);
    }
    Ok(questions)
}

/// The question that facts are; else the field that is wrong, and why.
fn question(mesh: &str, facts: &PolicyFacts) -> Result<CheckRequest, (&'static str, String)> {
    let PolicyFacts {
        caller,
        target,
        port,
        method,
        path,
        rpc,
        headers,
        host,
        from,
        time,
        certificate_age,
        tls_group,
        without_headers,
        user,
        claims,
        actors,
        without_user,
    } = facts;
    for (field, text) in [("caller", caller), ("target", target)] {
        if text.is_empty() {
            return Err((field, format!("`{field}` is missing")));
        }
    }
    let is_http = !method.is_empty() || !path.is_empty();
    if !rpc.is_empty() && is_http {
        return Err(("rpc", "a gRPC method has neither `method` nor `path` beside it".to_owned()));
    }
    if !method.is_empty() && path.is_empty() {
        return Err(("method", "which path? Write `path: /orders/1`".to_owned()));
    }
    for (field, is_told) in [("claims", claims.is_some()), ("actors", !actors.is_empty())] {
        if is_told && user.is_empty() {
            return Err((field, format!("`{field}` without `user`: write `user: alice@ISSUER`")));
        }
    }
    if *without_user && !user.is_empty() {
        return Err(("withoutUser", "a user is named, and none is said to be there".to_owned()));
    }
    let instant = |text: &str| {
        let parsed: Result<jiff::Timestamp, _> = text.parse();
        parsed.map_err(|_| ("time", format!("`{text}` is no instant: write 2026-03-02T10:00:00Z")))
    };
    let at = Some(time).filter(|time| !time.is_empty()).map(|time| instant(time)).transpose()?;
    let at = at.map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() });
    let age = Some(certificate_age).filter(|age| !age.is_empty()).map(|age| times::duration(age));
    let age = age.transpose().map_err(|message| ("certificateAge", message))?;
    let line =
        |name: &String, values| HeaderLines { name: name.to_ascii_lowercase(), values, unreadable: false };
    let sent = headers.iter().flat_map(|headers| &headers.fields);
    let mut headers = sent
        .map(|(name, value)| Ok(line(name, lines_of(name, value).map_err(|message| ("headers", message))?)))
        .collect::<Result<Vec<_>, _>>()?;
    headers.extend(without_headers.iter().map(|name| line(name, Vec::new())));
    Ok(CheckRequest {
        mesh: mesh.to_owned(),
        caller: caller.clone(),
        target: target.clone(),
        port: *port,
        method: method.clone(),
        path: if rpc.is_empty() { path.clone() } else { rpc.clone() },
        address: from.clone(),
        host: host.clone(),
        headers,
        at,
        certificate_age_s: age.map(|age| age.as_secs()),
        tls_group: tls_group.clone(),
        user: user.clone(),
        claims: claims.as_ref().map(|claims| json_of(claims).to_string()).unwrap_or_default(),
        actors: actors.clone(),
        without_user: *without_user,
    })
}

/// What is sent of one header field.
fn lines_of(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let name = printable(name);
    let line = |value: &Value| match &value.kind {
        Some(value::Kind::StringValue(line)) => Ok(line.clone()),
        _ => Err(format!("each line of `{name}` is a text: write it in quotes")),
    };
    match &value.kind {
        Some(value::Kind::ListValue(ListValue { values })) if values.is_empty() => {
            Err(format!("`{name}` has no line: write it below `withoutHeaders` if it is not sent"))
        }
        Some(value::Kind::ListValue(ListValue { values })) => values.iter().map(line).collect(),
        _ => line(value).map(|line| vec![line]),
    }
}

impl Source {
    async fn ask(&self, questions: Vec<CheckRequest>) -> Result<TestResponse, CommandError> {
        match self {
            Self::Live(session) => {
                let request = TestRequest { resources: Vec::new(), questions };
                let mut response = session.policies().test(request).await?.into_inner();
                let answered = response.answers.iter_mut().filter_map(|answer| answer.answer.as_mut());
                for detail in answered.flat_map(|answer| &mut answer.decisions) {
                    decision::in_context(detail, session.of_context());
                }
                Ok(response)
            }
            Self::Files { documents, trust_domain } => {
                let resources = documents.resources().cloned().collect();
                let test = Some(TestRequest { resources, questions });
                let question = OfflineTest { trust_domain: trust_domain.clone(), test };
                let answered = answer_offline(&question.encode_to_vec()).await?;
                let OfflineAnswer { answer, code, message, details } = answered;
                answer.ok_or_else(|| {
                    let refused = Status::with_details(Code::from(code), message, details.into());
                    apply::located(documents, refused)
                })
            }
        }
    }
}

/// Has the control plane's own program answer.
async fn answer_offline(question: &[u8]) -> Result<OfflineAnswer, CommandError> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(ANSWERER)));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(ANSWERER));
    let started = Command::new(&program)
        .arg("answer")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|error| {
        CommandError::advised(
            format!("{} does not start: {error}", program.display()),
            format!("what files say is judged by {ANSWERER}: put it beside hauberk, or into the PATH"),
        )
    })?;
    let failed = |error: std::io::Error| CommandError::failed(format!("{}: {error}", program.display()));
    let stdin = child.stdin.take();
    let write = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        stdin.write_all(question).await?;
        stdin.shutdown().await
    };
    let ended = timeout(PATIENCE, async { tokio::join!(write, child.wait_with_output()) }).await;
    let Ok((written, answered)) = ended else {
        return Err(CommandError::failed(format!("{} takes too long", program.display())));
    };
    let answered = answered.map_err(failed)?;
    if !answered.status.success() {
        return Err(CommandError::failed(format!("{} ended with {}", program.display(), answered.status)));
    }
    written.map_err(failed)?;
    OfflineAnswer::decode(&answered.stdout[..]).map_err(|error| {
        CommandError::advised(
            format!("{} answers what cannot be read: {error}", program.display()),
            "both programs must be of one release",
        )
    })
}

/// What is to be said of an assertion that does not hold.
struct Complaint {
    expected: &'static str,
    got: String,
    why: String,
}

fn complaint(assertion: &Assertion, answer: &TestAnswer) -> Option<Complaint> {
    let expected = match &assertion.expectation {
        Some(Expectation::Allow(_)) => "allow",
        Some(Expectation::Deny(_)) => "deny",
        Some(Expectation::Conditional(_)) | None => "conditional",
    };
    let Some(answer) = &answer.answer else {
        let why = printable(&answer.problem);
        return Some(Complaint { expected, got: "no answer".to_owned(), why });
    };
    let got = match prospect::overall(answer) {
        Outlook::Always => "allow",
        Outlook::Never => "deny",
        _ => "conditional",
    };
    if got == expected {
        return None;
    }
    let detail = answer.decisions.first();
    let (reason, why) = if got == "conditional" {
        ("it depends on what is not told".to_owned(), prospect::open_conditions(answer))
    } else {
        let reason = answer.prospects.iter().map(prospect::settled).collect::<Vec<_>>().join("; ");
        (reason, detail.map(decision::trace).unwrap_or_default())
    };
    Some(Complaint { expected, got: format!("{got}: {reason}"), why })
}

fn report(file: &Assertions, index: usize, assertion: &Assertion, complaint: &Complaint) -> String {
    let name =
        if assertion.name.is_empty() { format!("test {}", index + 1) } else { printable(&assertion.name) };
    let place = file.place(&format!("tests[{index}]"));
    let Complaint { expected, got, why } = complaint;
    let mut out = format!("{} {name}: expected {expected}, got {got}\n", format!("{place}:").bold());
    why.lines().for_each(|line| out.push_str(&format!("    {line}\n")));
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::Arguments as CommandLine;

    fn headers(lines: &[(&str, value::Kind)]) -> Option<prost_types::Struct> {
        let fields = lines.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone().into()));
        Some(prost_types::Struct { fields: fields.collect() })
    }

    #[test]
    fn facts_are_read_strictly() {
        let facts = PolicyFacts {
            caller: "web".to_owned(),
            target: "orders".to_owned(),
            method: "GET".to_owned(),
            path: "/orders/1".to_owned(),
            time: "2026-03-02T10:00:00Z".to_owned(),
            certificate_age: "10m".to_owned(),
            headers: headers(&[("X-Tenant", value::Kind::StringValue("blue".to_owned()))]),
            without_headers: vec!["x-team".to_owned()],
            user: "alice@login".to_owned(),
            claims: Some(prost_types::Struct {
                fields: [("level".to_owned(), value::Kind::NumberValue(3.0).into())].into(),
            }),
            actors: vec!["web".to_owned()],
            ..PolicyFacts::default()
        };
        let two = value::Kind::ListValue(ListValue { values: ["blue", "red"].map(Into::into).into() });
        let several =
            question("shop", &PolicyFacts { headers: headers(&[("x-tenant", two)]), ..facts.clone() });
        assert_eq!(several.unwrap().headers[0].values, ["blue", "red"]);
        let number = headers(&[("x-tenant", value::Kind::NumberValue(7.0))]);
        let none = headers(&[("x-tenant", value::Kind::ListValue(ListValue::default()))]);
        let asked = question("shop", &facts).unwrap();
        assert_eq!(asked.at.unwrap().seconds, 1_772_445_600);
        assert_eq!(asked.certificate_age_s, Some(600));
        let lines: Vec<_> =
            asked.headers.iter().map(|line| (line.name.as_str(), line.values.len())).collect();
        assert_eq!(lines, [("x-tenant", 1), ("x-team", 0)]);
        assert_eq!((asked.user.as_str(), asked.claims.as_str()), ("alice@login", "{\"level\":3}"));
        assert_eq!(asked.actors, ["web"]);
        for (facts, field) in [
            (PolicyFacts { caller: String::new(), ..facts.clone() }, "caller"),
            (PolicyFacts { rpc: "a.B/C".to_owned(), ..facts.clone() }, "rpc"),
            (PolicyFacts { path: String::new(), ..facts.clone() }, "method"),
            (PolicyFacts { time: "tomorrow".to_owned(), ..facts.clone() }, "time"),
            (PolicyFacts { certificate_age: "old".to_owned(), ..facts.clone() }, "certificateAge"),
            (PolicyFacts { user: String::new(), ..facts.clone() }, "claims"),
            (PolicyFacts { user: String::new(), claims: None, ..facts.clone() }, "actors"),
            (PolicyFacts { without_user: true, ..facts.clone() }, "withoutUser"),
            (PolicyFacts { headers: number, ..facts.clone() }, "headers"),
            (PolicyFacts { headers: none, ..facts.clone() }, "headers"),
        ] {
            assert_eq!(question("shop", &facts).unwrap_err().0, field);
        }
    }

    #[tokio::test]
    async fn names_of_another_trust_domain_or_mesh_are_not_asked_about() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, head: &str| {
            let path = folder.path().join(name);
            let tests = "tests:\n- deny: {caller: cart, target: cache}\n";
            std::fs::write(&path, format!("{head}{tests}")).unwrap();
            read_assertions(&path).unwrap().remove(0)
        };
        let none = file("none.yaml", "mesh: shop\n");
        let [one, same, other] = [("one", "a.example"), ("same", "a.example"), ("other", "b.example")]
            .map(|(name, domain)| file(&format!("{name}.yaml"), &format!("trustDomain: {domain}\n")));
        assert!(named_trust_domain(std::slice::from_ref(&none)).unwrap().is_none());
        let files = [one, same, other];
        assert_eq!(named_trust_domain(&files[..2]).unwrap().unwrap().name(), files[0].name());
        let refused = named_trust_domain(&files).unwrap_err().to_string();
        assert!(refused.contains("other.yaml:1:1") && refused.contains("about b.example"), "{refused}");
        assert!(is_of(Some(&files[0]), "a.example").is_ok() && is_of(None, "b.example").is_ok());
        assert!(is_of(Some(&files[0]), "b.example").is_err());

        let resources = folder.path().join("shop.yaml");
        std::fs::write(&resources, "kind: Mesh\nname: shop\nspec: {}\n").unwrap();
        let documents = documents::read(&[resources], None).unwrap();
        let mut source = Source::Files { documents, trust_domain: "a.example".to_owned() };
        let global = |mesh: &str| {
            let line = ["hauberk", "policy", "test", "none.yaml", "--mesh", mesh];
            CommandLine::try_parse_from(line).unwrap().global
        };
        let asked = questions(&mut source, &global("shop"), &none).await.unwrap();
        assert_eq!(asked[0].mesh, "shop");
        let refused = questions(&mut source, &global("bank"), &none).await.unwrap_err();
        assert!(refused.to_string().contains("about mesh shop, while --mesh or HAUBERK_MESH says bank"));
    }
}
