//! Policies that cannot be: too large, wrong, of roles in a circle, with slots that nothing fills. The admin API
//! refuses them with the reason and the figures, and applies nothing of what came with them.

use std::fmt::Write as _;

use crate::{
    resources::{apply_file, names},
    shop,
};

const MEBIBYTE: usize = 1 << 20;

/// A policy with this text, on one line of YAML.
fn policy(name: &str, cedar: &str) -> String {
    format!("kind: Policy\nmesh: shop\nname: {name}\nspec: {{cedar: '{cedar}'}}\n")
}

fn statement(path: &str) -> String {
    format!(
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when {{ context.path == \"/{path}\" }};"
    )
}

const GOOD: &str = "kind: VirtualNode
mesh: shop
name: newcomer
spec: {}
---
kind: PolicyTemplate
mesh: shop
name: readers
spec: {cedar: 'permit(principal in ?principal, action == Action::\"GET\", resource in ?resource);'}
";

#[test]
fn what_cannot_be_enforced_is_refused_with_its_figures_and_nothing_of_it_is_applied() {
    let mesh = shop::open();
    let one = statement(&"a".repeat(MEBIBYTE));
    let mut many = String::new();
    for number in 0.. {
        if many.len() >= MEBIBYTE {
            break;
        }
        write!(many, "{} ", statement(&number.to_string())).unwrap();
    }
    let good = policy("good", &statement("good"));
    let too_large = |text: &str| format!("a policy has at most 65536 bytes, this one has {}", text.len());
    let circle = "kind: Role\nmesh: shop\nname: a\nspec: {roles: [b]}\n---\nkind: Role\nmesh: shop\nname: b\nspec: {roles: [a]}\n";
    let unfilled = "kind: Policy\nmesh: shop\nname: unfilled\nspec: {template: {name: readers, principal: 'Node::\"web\"'}}\n";
    for (bad, told) in [
        (policy("one-statement", &one), vec![too_large(&one), "split it into several policies".to_owned()]),
        (policy("many-statements", &many), vec![too_large(&many)]),
        (
            policy("wrong", "permit(principal == Node::\"web\", action == Action::\"GETT\", resource);"),
            vec!["did you mean".to_owned(), "GET".to_owned()],
        ),
        (policy("no-cedar", "permit(principal"), vec!["spec.cedar".to_owned()]),
        (
            policy(
                "operators",
                &statement(&format!(
                    "x\" || {} context.path == \"/y",
                    "context.path == \"/z\" || ".repeat(300)
                )),
            ),
            vec!["a statement has at most 200 operators".to_owned()],
        ),
        (circle.to_owned(), vec!["a → b → a".to_owned()]),
        (unfilled.to_owned(), vec!["the template's ?resource is not filled".to_owned()]),
    ] {
        let before = names(&mesh);
        let refused = apply_file(&mesh, &format!("{GOOD}---\n{good}---\n{bad}"));
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{:.2000}", refused.stderr);
        for words in told {
            assert!(refused.stderr.contains(&words), "{words}: {:.2000}", refused.stderr);
        }
        assert!(refused.stderr.contains("file.yaml:"), "it says where: {:.2000}", refused.stderr);
        assert!(refused.stderr.len() < 20_000, "a mistake is told, and not the megabyte again");
        assert_eq!(names(&mesh), before, "{:.200}", bad);
    }
    apply_file(&mesh, &format!("{GOOD}---\n{good}")).ok();
}

#[test]
fn policies_that_are_too_large_together_are_refused_with_their_figures() {
    let mesh = shop::open();
    let before = names(&mesh);
    let together = |count: usize, length: usize| {
        let policies =
            (0..count).map(|number| policy(&format!("p{number}"), &statement(&"a".repeat(length))));
        policies.collect::<Vec<_>>().join("---\n")
    };
    // They fit into one change, and the view of the node that they concern into no message.
    let refused = apply_file(&mesh, &together(62, 60_000));
    assert_eq!(refused.code, 1, "{:.2000}", refused.stderr);
    for words in [
        "the view of virtual node orders in mesh shop would have 37",
        "at most 3670016 can be sent",
        "62 statements of policies",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {:.2000}", refused.stderr);
    }
    // Nor does what is larger come in as one change.
    let refused = apply_file(&mesh, &together(150, 60_000));
    assert_eq!(refused.code, 1, "{:.2000}", refused.stderr);
    let told = "bytes are too many for one change: at most 8388608; split it";
    assert!(refused.stderr.contains(told), "{:.2000}", refused.stderr);
    assert_eq!(names(&mesh), before);
}
