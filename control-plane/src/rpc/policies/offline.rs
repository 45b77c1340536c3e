//! Questions about resources in files, without a store and without a control plane that runs.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_proto::admin::v1::{OfflineAnswer, OfflineTest, TestRequest, TestResponse};
use prost::Message;
use tonic::{Code, Status};

use super::answer_all;
use crate::clock::Clock;
use crate::resources::Catalog;
use crate::rpc::status;

/// The longest question, in bytes.
const LARGEST_QUESTION: u64 = 64 * 1024 * 1024;

/// Reads an encoded [`OfflineTest`] and writes an encoded [`OfflineAnswer`]: its resources are admitted and compiled as they
/// would be if they were applied to a new control plane.
///
/// # Errors
/// The question cannot be read, or the answer cannot be written.
pub fn answer_offline(from: impl Read, mut to: impl Write) -> io::Result<ExitCode> {
    let mut question = Vec::new();
    let read = from.take(LARGEST_QUESTION + 1).read_to_end(&mut question)?;
    if u64::try_from(read).is_ok_and(|read| read > LARGEST_QUESTION) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the question has more than 64 MiB"));
    }
    to.write_all(&answer(&question, Clock::system().now()))?;
    to.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn answer(question: &[u8], now: UnixMillis) -> Vec<u8> {
    let answer = match try_answer(question, now) {
        Ok(answer) => OfflineAnswer { answer: Some(answer), ..OfflineAnswer::default() },
        Err(refused) => OfflineAnswer {
            answer: None,
            code: refused.code().into(),
            message: refused.message().to_owned(),
            details: refused.details().to_vec(),
        },
    };
    answer.encode_to_vec()
}

fn try_answer(question: &[u8], now: UnixMillis) -> Result<TestResponse, Status> {
    let undecodable = |error: prost::DecodeError| {
        status::refusal(Code::InvalidArgument, "UNREADABLE", format!("the question cannot be read: {error}"))
    };
    let OfflineTest { trust_domain, test } = OfflineTest::decode(question).map_err(undecodable)?;
    let trust_domain = TrustDomain::parse(&trust_domain);
    let trust_domain = trust_domain.map_err(|error| status::bad_field("trustDomain", error))?;
    let TestRequest { resources, questions } = test.unwrap_or_default();
    answer_all(&Catalog::default(), &trust_domain, &resources, &questions, now)
}

#[cfg(test)]
mod tests {
    use hauberk_proto::admin::v1::CheckRequest;

    use super::*;
    use crate::resources::MAX_BATCH;
    use crate::resources::testing::{permit, shop};

    #[test]
    fn more_resources_are_tested_than_are_changed_at_once() {
        let many = (0..=MAX_BATCH).map(|number| permit(&format!("p-{number}"), "web", "orders"));
        let question = CheckRequest {
            mesh: "shop".to_owned(),
            caller: "web".to_owned(),
            target: "orders".to_owned(),
            ..CheckRequest::default()
        };
        let test =
            TestRequest { resources: shop().into_iter().chain(many).collect(), questions: vec![question] };
        let asked = OfflineTest { trust_domain: "shop.example".to_owned(), test: Some(test) };
        let told = OfflineAnswer::decode(&answer(&asked.encode_to_vec(), UnixMillis(1_800_000_000_000))[..])
            .unwrap();
        assert_eq!((told.code, told.message.as_str()), (0, ""));
        assert_eq!(told.answer.unwrap().answers.len(), 1);
    }
}
