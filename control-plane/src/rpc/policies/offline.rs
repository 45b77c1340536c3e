//! Questions about resources in files, without a store and without a control plane that runs.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_proto::admin::v1::{OfflineAnswer, OfflineTest, TestRequest, TestResponse};
use prost::Message;
use tonic::{Code, Status};

use super::answer_all;
use super::turned_away::Known;
use crate::clock::Clock;
use crate::resources::draft_alone;
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
    let drafted = draft_alone(&resources, &trust_domain);
    let drafted = drafted.map_err(|error| status::of_change(&error, "resources"))?;
    answer_all(&drafted, &trust_domain, &questions, (Known::Resources, now))
}

#[cfg(test)]
mod tests {
    use hauberk_proto::admin::v1::{CheckRequest, CheckResponse, Outlook, Prospect};
    use hauberk_proto::mesh::v1::{ExternalPort, ExternalServiceSpec, resource::Spec};

    use super::*;
    use crate::resources::MAX_BATCH;
    use crate::resources::testing::{issuer, partner, permit, policy, resource, shop};

    /// What is told of these questions about these resources: the outlooks, or why there is no answer.
    fn asked(
        resources: Vec<hauberk_proto::mesh::v1::Resource>,
        questions: Vec<CheckRequest>,
    ) -> Vec<Result<Vec<Outlook>, String>> {
        let test = Some(TestRequest { resources, questions });
        let asked = OfflineTest { trust_domain: "shop.example".to_owned(), test };
        let told = answer(&asked.encode_to_vec(), UnixMillis(1_800_000_000_000));
        let told = OfflineAnswer::decode(&told[..]).unwrap();
        let answers = told.answer.unwrap_or_else(|| panic!("{}", told.message)).answers;
        let outlooks = |answer: CheckResponse| answer.prospects.iter().map(Prospect::outlook).collect();
        answers.into_iter().map(|one| one.answer.map(outlooks).ok_or(one.problem)).collect()
    }

    #[test]
    fn what_leaves_the_mesh_is_asked_about_for_a_user_and_by_whom_the_user_came() {
        let ports = vec![ExternalPort { port: Some(80), protocol: "http".to_owned() }];
        let spec = ExternalServiceSpec {
            hosts: vec!["api.example".to_owned()],
            ports,
            ..ExternalServiceSpec::default()
        };
        let mut resources = shop();
        let support = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in External::\"stripe\") when { \
                       context has user && context.user in UserGroup::\"login/support\" && \
                       context.claims.hasTag(\"team\") && context.actors == [Node::\"orders\"] };";
        resources.extend([
            issuer("login", |_| {}),
            resource("shop", "stripe", Spec::ExternalService(spec)),
            policy("support", support),
        ]);
        let ask = |user: &str, claims: &str, actors: &[&str]| CheckRequest {
            mesh: "shop".to_owned(),
            caller: "web".to_owned(),
            target: "external/stripe".to_owned(),
            method: "GET".to_owned(),
            path: "/v1".to_owned(),
            user: user.to_owned(),
            claims: claims.to_owned(),
            actors: actors.iter().map(ToString::to_string).collect(),
            ..CheckRequest::default()
        };
        let in_support = "{\"groups\": [\"support\"], \"team\": \"blue\"}";
        let (alice, by_orders) = ("alice@login", &["orders"][..]);
        let nobody = CheckRequest { without_user: true, ..ask("", "", &[]) };
        let questions = vec![
            ask("", "", &[]),
            nobody,
            ask(alice, in_support, by_orders),
            ask(alice, in_support, &[]),
            ask(alice, "{\"groups\": [\"support\"]}", by_orders),
            ask(alice, "{\"team\": \"blue\"}", by_orders),
        ];
        let told = asked(resources, questions);
        let wanted = [
            Outlook::Conditional,
            Outlook::Never,
            Outlook::Always,
            Outlook::Never,
            Outlook::Never,
            Outlook::Never,
        ];
        assert_eq!(told, wanted.map(|outlook| Ok(vec![outlook])));
    }

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

    #[test]
    fn whom_agents_turn_away_by_resources_alone_is_denied() {
        let mut resources = shop();
        resources.push(policy(
            "everybody",
            "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\"); \
             permit(principal is Anonymous, action == Action::\"GET\", resource in Service::\"orders\"); \
             permit(principal is Workload, action == Action::\"GET\", resource in Service::\"orders\");",
        ));
        let ask = |caller: &str| CheckRequest {
            mesh: "shop".to_owned(),
            caller: caller.to_owned(),
            target: "orders".to_owned(),
            method: "GET".to_owned(),
            path: "/orders/1".to_owned(),
            ..CheckRequest::default()
        };
        let questions = ["web", "anonymous", "spiffe://partner.example/billing"].map(ask);
        let told = |resources: &[hauberk_proto::mesh::v1::Resource]| {
            let told = asked(resources.to_vec(), questions.to_vec());
            told.into_iter().map(|outlooks| outlooks.unwrap()[0]).collect::<Vec<_>>()
        };
        assert_eq!(told(&resources), [Outlook::Always, Outlook::Never, Outlook::Never]);
        resources.push(partner());
        assert_eq!(told(&resources), [Outlook::Always, Outlook::Never, Outlook::Always]);
    }
}
