//! Descriptions as big as public ones are, and what is wrong with them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use hauberk_proto::mesh::v1::{api_description::Description, resource::Spec};
use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    MethodOptions, ServiceDescriptorProto, SourceCodeInfo, source_code_info::Location,
};

use crate::documents::read::{ReadError, read};

/// Writes the files and reads `node.yaml`, whose one listener has this `api`.
fn describe(api: &str, files: &[(&str, &[u8])]) -> Result<Description, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let node = folder.path().join("node.yaml");
    let text = format!(
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - portMapping: {{port: 80, protocol: http}}\n    api: {api}\n"
    );
    fs::write(&node, text).unwrap();
    described(&node).map_err(|error| {
        let told = anstream::adapter::strip_str(&error.to_string()).to_string();
        told.replace(&format!("{}/", folder.path().display()), "")
    })
}

fn described(node: &Path) -> Result<Description, ReadError> {
    let documents = read(&[node.to_owned()], None)?;
    let resource = documents.resources().next().unwrap();
    let Some(Spec::VirtualNode(node)) = &resource.spec else { panic!("{resource:?}") };
    Ok(node.listeners[0].api.clone().unwrap().description.unwrap())
}

fn openapi(file: &str, text: &str) -> Result<String, String> {
    match describe(&format!("{{openapiFile: {file}}}"), &[(file, text.as_bytes())])? {
        Description::Openapi(text) => Ok(text),
        other @ Description::Protobuf(_) => panic!("{other:?}"),
    }
}

const PATHS: usize = 700;

/// As large public interfaces are described: everything that is sent and answered, with examples, at each operation.
fn large() -> serde_json::Value {
    use serde_json::json;
    let schema = |depth: usize| {
        (0..depth).fold(json!({"type": "string", "example": "\u{1f6e1} ".repeat(8)}), |inner, level| {
            json!({"type": "object", "required": ["id"], "properties": {
                "id": {"type": "integer", "format": "int64", "nullable": true},
                format!("level_{level}"): inner,
                "url": {"type": "string", "format": "uri", "description": "Where it is to be found. ".repeat(4)},
            }})
        })
    };
    let operation = |number: usize| {
        json!({
            "summary": "An operation", "operationId": format!("op-{number}"), "tags": ["all"],
            "description": "What it does, at length. ".repeat(12),
            "parameters": [{"name": "page", "in": "query", "schema": schema(2)}],
            "responses": {"200": {"description": "yes", "content": {"application/json": {"schema": schema(10)}}},
                          "404": {"$ref": "#/components/responses/not_found"}},
        })
    };
    let paths: serde_json::Map<String, serde_json::Value> = (0..PATHS)
        .map(|number| {
            let item = json!({
                "get": operation(number), "post": operation(number), "parameters": [{"name": "owner"}],
            });
            (format!("/repos/{{owner}}/things-{number}/{{id}}"), item)
        })
        .collect();
    let schemas: serde_json::Map<String, serde_json::Value> =
        (0..300).map(|number| (format!("schema-{number}"), schema(12))).collect();
    json!({
        "openapi": "3.0.3", "info": {"title": "large", "version": "1"},
        "servers": [{"url": "https://{host}/v3", "variables": {"host": {"default": "api.example"}}}],
        "paths": paths, "components": {"schemas": schemas}, "webhooks": {"push": {"post": operation(0)}},
    })
}

/// In blocks, as people write it.
fn to_yaml(value: &serde_json::Value, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match value {
        serde_json::Value::Object(entries) => {
            for (key, value) in entries {
                let is_scalar = !value.is_object() && !value.is_array();
                let _infallible = write!(out, "{margin}\"{key}\":{}", if is_scalar { " " } else { "\n" });
                to_yaml(value, indent + 1, out);
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                let is_scalar = !item.is_object() && !item.is_array();
                let _infallible = write!(out, "{margin}-{}", if is_scalar { " " } else { "\n" });
                to_yaml(item, indent + 1, out);
            }
        }
        scalar => {
            let _infallible = writeln!(out, "{scalar}");
        }
    }
}

#[test]
fn of_a_large_document_little_is_sent() {
    let large = large();
    // Some tools write all that is not ASCII as pairs of surrogates, which YAML does not know.
    let as_json = large.to_string().replace('\u{1f6e1}', r"\ud83d\udee1");
    let mut as_yaml = String::new();
    to_yaml(&large, 0, &mut as_yaml);
    let as_yaml = format!("# A comment first.\n{as_yaml}");
    for (name, text) in [("large.json", as_json), ("large.yaml", as_yaml)] {
        assert!(text.len() > 4 << 20, "{name}: {}", text.len());
        let sent = openapi(name, &text).unwrap();
        assert!(sent.len() < 100 << 10, "{name}: {}", sent.len());
        let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent.as_object().unwrap().len(), 4, "{name}");
        assert_eq!(sent["servers"], large["servers"], "{name}");
        assert_eq!(sent["components"], serde_json::json!({}), "{name}");
        let paths = sent["paths"].as_object().unwrap();
        assert_eq!(paths.len(), PATHS, "{name}");
        assert!(paths.values().all(|item| *item == serde_json::json!({"get": {}, "post": {}})), "{name}");
    }
}

#[test]
fn all_that_says_something_of_routes_is_kept() {
    let text = "
openapi: 3.1
info: &info {title: t}
x-info: *info
servers: [{url: /v1}]
tags: [{name: a}]
paths:
  x-note: {a: b}
  /a:
    $ref: '#/components/pathItems/a'
    servers: [{url: /v2}]
    summary: s
    parameters: [{name: p}]
    x-hauberk-data-classes: [pii]
    x-other: 1
    get: {operationId: g, servers: [{url: /v3}], x-hauberk-data-classes: [money], responses: {'200': {description: d}}}
    post:
    gett: {responses: {}}
    additionalOperations: {COPY: {summary: s}}
    x-amazon-apigateway-any-method: {responses: {}, isDefaultRoute: true}
  /b: text
  /c/{p}:
    parameters: [{name: p, in: path, required: true, x-multi-segment: true}, {name: q, in: query}, *info]
    get: {parameters: [{$ref: '#/components/parameters/p'}, {$ref: '#/components/parameters/q'}]}
    additionalOperations: {COPY: {parameters: [{name: p, in: path}]}}
components:
  parameters:
    p: {name: p, in: path, x-multi-segment: true, schema: {type: string}}
    q: {name: q, in: query}
  pathItems:
    a: {put: {$ref: '#/paths/~1a/get', requestBody: {}}}
  schemas: {S: {type: object}}
";
    let sent: serde_json::Value = serde_json::from_str(&openapi("a.yaml", text).unwrap()).unwrap();
    let expected = serde_json::json!({
        "openapi": "3.1",
        "servers": [{"url": "/v1"}],
        "paths": {
            "/a": {
                "$ref": "#/components/pathItems/a",
                "servers": [{"url": "/v2"}],
                "x-hauberk-data-classes": ["pii"],
                "get": {"servers": [{"url": "/v3"}], "x-hauberk-data-classes": ["money"]},
                "post": null,
                "gett": {},
                "additionalOperations": {"COPY": {}},
                "x-amazon-apigateway-any-method": {"isDefaultRoute": "true"},
            },
            "/b": "text",
            "/c/{p}": {
                "parameters": [{"name": "p", "in": "path", "x-multi-segment": "true"}],
                "get": {"parameters": [{"$ref": "#/components/parameters/p"}]},
                "additionalOperations": {"COPY": {"parameters": [{"name": "p", "in": "path"}]}},
            },
        },
        "components": {
            "parameters": {"p": {"name": "p", "in": "path", "x-multi-segment": "true"}},
            "pathItems": {"a": {"put": {"$ref": "#/paths/~1a/get"}}},
        },
    });
    assert_eq!(sent, expected);
    // The same in JSON, whose numbers stay numbers: either is read as the text `3.1`.
    let as_json = expected.to_string().replace("\"3.1\"", "3.1");
    let sent: serde_json::Value = serde_json::from_str(&openapi("a.json", &as_json).unwrap()).unwrap();
    assert_eq!(sent["openapi"], serde_json::json!(3.1));
    assert_eq!(sent["paths"], expected["paths"]);
    // YAML may begin with a brace.
    assert_eq!(
        openapi("b.yaml", "{openapi: 3.1.0, paths: {}}").unwrap(),
        r#"{"openapi":"3.1.0","paths":{}}"#
    );
}

#[test]
fn what_lies_in_files_below_the_document_is_taken_in() {
    let files: [(&str, &[u8]); 6] = [
        (
            "api/openapi.yaml",
            b"openapi: 3.1.0
paths:
  /users: {$ref: ./paths/users.yaml}
  /users/{id}: {$ref: 'paths/users.yaml#/~1one', x-hauberk-data-classes: [pii]}
  /files/{rest}:
    get: {$ref: operations.json#/get, parameters: [{$ref: 'parameters.yaml#/rest'}, {$ref: 'parameters.yaml#/page'}]}
    put: {$ref: 'paths/a%20b%7E.yaml'}
components: {parameters: {page: {name: page, in: query}}}
",
        ),
        (
            "api/paths/users.yaml",
            b"get: {summary: s, responses: {'200': {$ref: ../responses.yaml}}}
post: {$ref: ../operations.json#/get}
parameters: [{$ref: ../parameters.yaml#/page}]
gett: {a: b}
/one: {$ref: '#/~1two', delete: {}}
/two: {patch: {x-hauberk-data-classes: [money]}}
",
        ),
        ("api/operations.json", br#"{"get": {"responses": {}, "x-hauberk-data-classes": ["order"]}}"#),
        ("api/parameters.yaml", b"rest: {name: rest, in: path, x-multi-segment: true, schema: {}}\npage: {name: p, in: query}"),
        ("api/paths/a b~.yaml", b"deprecated: true"),
        ("api/responses.yaml", b"is: never read: at all"),
    ];
    let Description::Openapi(sent) = describe("{openapiFile: api/openapi.yaml}", &files).unwrap() else {
        panic!("openapi")
    };
    let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
    let expected = serde_json::json!({
        "openapi": "3.1.0",
        "paths": {
            "/users": {"$ref": "#/components/x-files/paths~1users.yaml#"},
            "/users/{id}": {
                "$ref": "#/components/x-files/paths~1users.yaml#~1~01one",
                "x-hauberk-data-classes": ["pii"],
            },
            "/files/{rest}": {
                "get": {
                    "$ref": "#/components/x-files/operations.json#~1get",
                    "parameters": [{"name": "rest", "in": "path", "x-multi-segment": "true"}],
                },
                "put": {"$ref": "#/components/x-files/paths~1a b~0.yaml#"},
            },
        },
        "components": {"x-files": {
            "paths/users.yaml#": {
                "get": {},
                "post": {"$ref": "#/components/x-files/operations.json#~1get"},
                "gett": {},
                "/one": {},
                "/two": {},
            },
            "paths/users.yaml#/~1one": {"$ref": "#/components/x-files/paths~1users.yaml#~1~01two", "delete": {}},
            "paths/users.yaml#/~1two": {"patch": {"x-hauberk-data-classes": ["money"]}},
            "operations.json#/get": {"x-hauberk-data-classes": ["order"]},
            "paths/a b~.yaml#": {},
        }},
    });
    assert_eq!(sent, expected);
}

#[test]
fn parameters_of_several_segments_are_found_through_files() {
    let of = |parameter: &str, components: &str| {
        let text = format!(
            "openapi: 3.1.0\npaths:\n  /files/{{rest}}:\n    get: {{parameters: [{parameter}]}}\ncomponents: {components}\n"
        );
        let files: [(&str, &[u8]); 4] = [
            ("o.yaml", text.as_bytes()),
            ("p.yaml", b"rest: {$ref: 'more/rest.yaml'}\nround: {$ref: '#/round'}\ngone: {$ref: gone.yaml}\nplain: {name: rest, in: path}"),
            (
                "more/rest.yaml",
                b"$ref: '#/it'\nit: {name: rest, in: path, x-multi-segment: true, schema: {}}",
            ),
            ("broken.yaml", b"rest: {name"),
        ];
        match describe("{openapiFile: o.yaml}", &files)? {
            Description::Openapi(text) => Ok(serde_json::from_str::<serde_json::Value>(&text).unwrap()),
            other @ Description::Protobuf(_) => panic!("{other:?}"),
        }
    };
    let rest = serde_json::json!({"name": "rest", "in": "path", "x-multi-segment": "true"});
    // By a file that refers to another one, and that within itself.
    let sent: Result<_, String> = of("{$ref: 'p.yaml#/rest'}", "{}");
    assert_eq!(sent.unwrap()["paths"]["/files/{rest}"]["get"]["parameters"], serde_json::json!([rest]));
    // What stands beside the reference counts too.
    let sent = of("{$ref: 'p.yaml#/plain', x-multi-segment: true}", "{}").unwrap();
    assert_eq!(sent["paths"]["/files/{rest}"]["get"]["parameters"], serde_json::json!([rest]));
    // By a component that does.
    let here = "#/components/parameters/rest";
    let sent = of(&format!("{{$ref: '{here}'}}"), "{parameters: {rest: {$ref: 'p.yaml#/rest'}}}").unwrap();
    assert_eq!(sent["paths"]["/files/{rest}"]["get"]["parameters"], serde_json::json!([{"$ref": here}]));
    assert_eq!(sent["components"]["parameters"]["rest"], rest);
    // Where it cannot be found that is told: without its rest the route would be another one.
    for (reference, told) in [
        (
            "p.yaml#/round",
            "paths./files/{rest}.get.parameters[0].$ref: it leads through more than 8 references",
        ),
        ("p.yaml#/nowhere", "parameters[0].$ref: there is no p.yaml#/nowhere"),
        ("p.yaml#/gone", "cannot be read: gone.yaml: No such file"),
        ("nowhere.yaml", "parameters[0].$ref: \"nowhere.yaml\" cannot be read: nowhere.yaml: No such file"),
        ("broken.yaml#/rest", "cannot be read: broken.yaml:"),
        ("https://a.example/x.yaml", "is a URL, and nothing is fetched"),
    ] {
        let found = of(&format!("{{$ref: '{reference}'}}"), "{}").unwrap_err();
        assert!(found.contains(told), "{reference}: {found}");
    }
    let found = of("", "{parameters: {rest: {$ref: nowhere.yaml}}}").unwrap_err();
    assert!(found.contains("components.parameters.rest.$ref: \"nowhere.yaml\" cannot be read"), "{found}");
}

#[test]
fn what_is_sent_refers_to_no_component_that_is_not() {
    let text = "openapi: 3.1.0
paths:
  /files/{rest}:
    parameters: [{$ref: '#/components/parameters/page'}]
    get: {parameters: [{$ref: '#/components/parameters/through'}, {$ref: '#/components/parameters/a%20page'}]}
    put: {parameters: [{$ref: '#/components/parameters/far'}, {$ref: '#/components/headers/rest'}]}
    post: {parameters: [{$ref: '#/components/parameters/plain', x-multi-segment: true}]}
    head: {parameters: [{$ref: '#/components/parameters/round'}, {$ref: '#/components/parameters/none'}]}
components:
  parameters:
    page: {$ref: 'p.yaml#/page'}
    through: {$ref: '#/components/parameters/page'}
    a page: {name: page, in: query}
    far: {$ref: '#/components/parameters/the~1rest'}
    the/rest: {name: rest, in: path, x-multi-segment: true}
    plain: {name: rest, in: path}
    round: {$ref: '#/components/parameters/round'}
  headers:
    rest: {schema: {}}
";
    let files: [(&str, &[u8]); 2] =
        [("o.yaml", text.as_bytes()), ("p.yaml", b"page: {name: page, in: query}")];
    let Description::Openapi(sent) = describe("{openapiFile: o.yaml}", &files).unwrap() else {
        panic!("openapi")
    };
    let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
    let to = |name: &str| format!("#/components/parameters/{name}");
    let expected = serde_json::json!({
        "openapi": "3.1.0",
        "paths": {"/files/{rest}": {
            "get": {},
            "put": {"parameters": [{"$ref": to("far")}]},
            "post": {"parameters": [{"$ref": to("plain"), "x-multi-segment": "true"}]},
            "head": {},
        }},
        "components": {"parameters": {
            "far": {"$ref": to("the~1rest")},
            "the/rest": {"name": "rest", "in": "path", "x-multi-segment": "true"},
            "plain": {"name": "rest", "in": "path"},
        }},
    });
    assert_eq!(sent, expected);
}

/// What is sent of `o.yaml`, which has these paths and components, beside `x.yaml`.
fn sent_of(paths: &str, components: &str, beside: &str) -> Result<serde_json::Value, String> {
    let text = format!("openapi: 3.1.0\npaths:\n{paths}\ncomponents:\n{components}\n");
    let files: [(&str, &[u8]); 2] = [("o.yaml", text.as_bytes()), ("x.yaml", beside.as_bytes())];
    match describe("{openapiFile: o.yaml}", &files)? {
        Description::Openapi(text) => Ok(serde_json::from_str(&text).unwrap()),
        other @ Description::Protobuf(_) => panic!("{other:?}"),
    }
}

#[test]
fn what_is_a_path_item_here_and_an_operation_there_is_sent_as_both() {
    let beside = "x-hauberk-data-classes: [pii]
get: {x-hauberk-data-classes: [money], summary: s}
isDefaultRoute: true
";
    let (item, operation) = ("{$ref: x.yaml}", "{get: {$ref: x.yaml}}");
    for (first, second) in [(item, operation), (operation, item)] {
        let sent = sent_of(&format!("  /a: {first}\n  /b: {second}"), "  {}", beside).unwrap();
        let expected = serde_json::json!({
            "x-hauberk-data-classes": ["pii"],
            "get": {"x-hauberk-data-classes": ["money"]},
            "isDefaultRoute": "true",
        });
        assert_eq!(sent["components"]["x-files"]["x.yaml#"], expected, "{first} {second}");
    }
}

#[test]
fn a_reference_that_leads_nowhere_is_told_where_it_stands() {
    let told = sent_of("  {}", "  pathItems: {shared: {$ref: nowhere.yaml}}", "").unwrap_err();
    assert!(told.contains(" components.pathItems.shared.$ref: \"nowhere.yaml\" cannot be read"), "{told}");
}

#[test]
fn a_parameter_that_stands_in_the_place_of_one_of_several_segments_is_sent() {
    let several = "{name: rest, in: path, x-multi-segment: true}";
    let plain = serde_json::json!({"name": "rest", "in": "path"});
    let paths = format!(
        "  /a/{{rest}}:
    parameters: [{several}]
    get: {{parameters: [{{name: page, in: query}}, {{name: other, in: path}}, {{name: rest, in: path, schema: {{}}}}]}}
    put: {{parameters: [{{$ref: '#/components/parameters/plain'}}, {{name: rest, in: query}}]}}
    post: {{parameters: [{{$ref: 'x.yaml#/plain'}}]}}
    patch: {{$ref: 'x.yaml#/patch'}}
  /b/{{rest}}:
    $ref: '#/components/pathItems/b'
    get: {{parameters: [{{name: rest, in: path}}]}}"
    );
    let components = format!(
        "  parameters: {{plain: {{name: rest, in: path}}, other: {{name: other, in: path}}}}
  pathItems: {{b: {{parameters: [{several}]}}}}"
    );
    let beside = "plain: {name: rest, in: path}\npatch: {parameters: [{$ref: '#/plain'}]}\n";
    let sent = sent_of(&paths, &components, beside).unwrap();
    let item = &sent["paths"]["/a/{rest}"];
    assert_eq!(item["get"]["parameters"], serde_json::json!([{}, {}, plain]));
    let by_reference = serde_json::json!([{"$ref": "#/components/parameters/plain"}]);
    assert_eq!(item["put"]["parameters"], by_reference);
    assert_eq!(sent["components"]["parameters"], serde_json::json!({"plain": plain}));
    assert_eq!(item["post"]["parameters"], serde_json::json!([plain]));
    assert_eq!(sent["components"]["x-files"]["x.yaml#/patch"]["parameters"], serde_json::json!([plain]));
    assert_eq!(sent["paths"]["/b/{rest}"]["get"]["parameters"], serde_json::json!([plain]));
}

#[test]
fn what_is_referred_to_by_its_number_keeps_it() {
    let paths = "  x-some: &some {name: some}
  /a/{rest}:
    get:
      parameters:
      - {name: page, in: query}
      - *some
      - {name: rest, in: path, x-multi-segment: true}
      - {name: n, in: query}
  /b/{rest}:
    get: {parameters: [{$ref: '#/paths/~1a~1{rest}/get/parameters/2'}]}
    put: {parameters: [{$ref: '#/paths/~1a~1%7Brest%7D/get/parameters/3', x-multi-segment: true}]}
    post:
      parameters:
      - {$ref: '#/paths/~1a~1{rest}/get/parameters/0'}
      - {$ref: '#/paths/~1b~1{rest}/post/parameters/1'}";
    let sent = sent_of(paths, "  {}", "").unwrap();
    let at = |pointer: &str| sent.pointer(pointer).unwrap_or(&serde_json::Value::Null).clone();
    let rest = serde_json::json!({"name": "rest", "in": "path", "x-multi-segment": "true"});
    let expected = serde_json::json!([{}, {}, rest, {"name": "n", "in": "query"}]);
    assert_eq!(at("/paths/~1a~1{rest}/get/parameters"), expected);
    let expected = serde_json::json!([{"$ref": "#/paths/~1a~1{rest}/get/parameters/2"}]);
    assert_eq!(at("/paths/~1b~1{rest}/get/parameters"), expected);
    assert_eq!(at("/paths/~1b~1{rest}/put/parameters/0/x-multi-segment"), "true");
    assert_eq!(at("/paths/~1b~1{rest}/post"), serde_json::json!({}));
}

#[test]
fn what_is_referred_to_in_what_is_left_out_is_taken_in() {
    let paths = "  /a/{rest}:
    get: {$ref: '#/components/x-operations/read'}
    put: {parameters: [{$ref: '#/components/x-parameters/rest'}]}
    post: {$ref: '#/components/x-operations/nowhere'}
  /b: {$ref: '#/components/x-items/b'}
  /c: {get: {$ref: '#/paths/~1a~1{rest}/put'}}";
    let components = "  x-operations:
    read: {summary: s, x-hauberk-data-classes: [pii], parameters: [{$ref: '#/components/x-parameters/rest'}]}
  x-parameters: {rest: {$ref: 'x.yaml#/rest'}}
  x-items: {b: {get: {$ref: '#/components/x-operations/read'}}}
  x-others: {large: [1, 2, 3]}";
    let beside = "rest: {name: rest, in: path, x-multi-segment: true, schema: {}}";
    let sent = sent_of(paths, components, beside).unwrap();
    let rest = serde_json::json!([{"name": "rest", "in": "path", "x-multi-segment": "true"}]);
    let read = serde_json::json!({"$ref": "#/components/x-files/#~1components~1x-operations~1read"});
    let expected = serde_json::json!({
        "openapi": "3.1.0",
        "paths": {
            "/a/{rest}": {
                "get": read,
                "put": {"parameters": rest},
                "post": {"$ref": "#/components/x-operations/nowhere"},
            },
            "/b": {"$ref": "#/components/x-files/#~1components~1x-items~1b"},
            "/c": {"get": {"$ref": "#/paths/~1a~1{rest}/put"}},
        },
        "components": {"x-files": {
            "#/components/x-operations/read": {"x-hauberk-data-classes": ["pii"], "parameters": rest},
            "#/components/x-items/b": {"get": read},
        }},
    });
    assert_eq!(sent, expected);
    // What cannot be read as a whole is no reason to lose a route's data classes.
    let told = sent_of(paths, &format!("{components}\n  x-more: &more {{a: b}}\n  x-again: *more"), beside);
    let told = told.unwrap_err();
    assert!(
        told.contains("get.$ref: \"#/components/x-operations/read\" leads to what is left out"),
        "{told}"
    );
    assert!(told.contains("aliases are not understood here"), "{told}");
}

#[test]
fn what_is_taken_in_stands_also_where_there_are_no_components() {
    for components in ["components:", "components: {}", "x-none: {}"] {
        let text = format!("openapi: 3.1.0\npaths: {{/a: {{$ref: a.yaml}}}}\n{components}\n");
        let files: [(&str, &[u8]); 2] = [("o.yaml", text.as_bytes()), ("a.yaml", b"get: {}")];
        let Description::Openapi(sent) = describe("{openapiFile: o.yaml}", &files).unwrap() else {
            panic!("openapi")
        };
        let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
        let taken = serde_json::json!({"x-files": {"a.yaml#": {"get": {}}}});
        assert_eq!(sent["components"], taken, "{components}");
    }
}

#[test]
fn nothing_beside_or_above_the_document_is_read() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let document =
        |reference: &str| format!("openapi: 3.1.0\npaths: {{/a: {{get: {{$ref: '{reference}'}}}}}}\n");
    let told = |reference: &str| {
        let text = document(reference);
        let files: [(&str, &[u8]); 3] = [
            ("api/o.yaml", text.as_bytes()),
            ("secret.yaml", b"get: {}"),
            ("api/b.yaml", b"a: {$ref: b.yaml"),
        ];
        describe("{openapiFile: api/o.yaml}", &files).unwrap_err()
    };
    let out = "leads out of the document's folder, and only what lies below is read";
    for (reference, expected) in [
        ("../secret.yaml", out),
        ("x/../../api/../secret.yaml", out),
        ("%2e%2e/secret.yaml", out),
        ("/etc/passwd", out),
        ("https://a.example/b.yaml", "is a URL, and nothing is fetched"),
        ("file:b.yaml", "is a URL, and nothing is fetched"),
        ("nowhere.yaml", "cannot be read: api/nowhere.yaml: No such file"),
        ("b.yaml", "cannot be read: api/b.yaml:"),
        ("o.yaml#/nowhere", "there is no o.yaml#/nowhere"),
        ("o.yaml#nowhere", "is not understood"),
        ("a%zz.yaml", "has an escape with %"),
        ("a%+a.yaml", "has an escape with %"),
        ("../api", out),
    ] {
        let told = told(reference);
        assert!(told.contains(expected), "{reference}: {told}");
        if !reference.contains("o.yaml#/") {
            assert!(told.contains(&format!("paths./a.get.$ref: \"{reference}\" ")), "{told}");
        }
    }
    // Nor by a link.
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("link.yaml")).unwrap();
    let told = super::openapi::reduced(document("link.yaml").as_bytes(), folder.path()).unwrap_err();
    assert!(told.message.contains("leads out of the document's folder by a link"), "{told:?}");
    let told = super::openapi::reduced(document(".").as_bytes(), folder.path()).unwrap_err();
    assert!(told.message.contains("is no file"), "{told:?}");
}

#[test]
fn files_that_refer_to_too_much_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("large.yaml")).unwrap().set_len((16 << 20) + 1).unwrap();
    let told = |text: &str| super::openapi::reduced(text.as_bytes(), folder.path()).unwrap_err().message;
    let found = told("openapi: 3.1.0\npaths: {/a: {$ref: large.yaml}}");
    assert!(found.ends_with("and those before it are more than 16 MiB, which are the most"), "{found}");
    let mut text = "openapi: 3.1.0\npaths:\n".to_owned();
    for number in 0..=1_000 {
        fs::write(folder.path().join(format!("{number}.yaml")), "get: {}").unwrap();
        let _infallible = writeln!(text, "  /p{number}: {{$ref: {number}.yaml}}");
    }
    let found = told(&text);
    assert!(found.contains("would be one file more than 1000"), "{found}");
}

#[test]
fn what_is_wrong_is_told_with_both_places() {
    let wrong = |text: &str| openapi("orders.yaml", text).unwrap_err();
    let told = wrong("openapi: 3.1.0\npaths:\n  /a: {get: {}}\n  /a: {get: {}}\n");
    assert!(
        told.contains(
            "node.yaml:7:24: spec.listeners[0].api.openapiFile: orders.yaml:4:3: the key \"/a\" stands here twice"
        ),
        "{told}"
    );
    let told = wrong("openapi: 3.1.0\npaths:\n  /a: &a\n    get: {}\n  /b: *a\n");
    assert!(told.contains("orders.yaml:5:7: aliases are not understood here"), "{told}");
    let merged =
        "openapi: 3.1.0\nx-a: &x {x-hauberk-data-classes: [pii]}\npaths:\n  /a:\n    get: {<<: *x}\n";
    let told = wrong(merged);
    assert!(told.contains("orders.yaml:5:15: aliases are not understood here"), "{told}");
    assert!(wrong("openapi: 3.1.0\npaths: [\n").contains("this is not YAML"));
    assert!(wrong("- a\n").contains("this is no OpenAPI document: it is not a mapping"));
    assert!(wrong("").contains("orders.yaml: it is empty"));
    let told = wrong("{\"openapi\": \"3.1.0\", \"paths\": {},\n \"paths\": {}}");
    assert!(told.contains("orders.yaml:2:8: the key \"paths\" stands here twice"), "{told}");
    let missing = describe("{openapiFile: nowhere.yaml}", &[]).unwrap_err();
    assert!(missing.contains("cannot read nowhere.yaml: No such file"), "{missing}");
    assert!(
        describe("{openapiFile: [a]}", &[])
            .unwrap_err()
            .contains("expected the name of a file, found a list")
    );
    let no_set = describe("{protobufFile: orders.pb}", &[("orders.pb", b"\x0a\xff")]).unwrap_err();
    assert!(no_set.contains("orders.pb: this is no FileDescriptorSet"), "{no_set}");
    let both = describe("{openapi: '', openapiFile: a.yaml}", &[("a.yaml", b"openapi: 3.1.0")]).unwrap_err();
    assert!(both.contains("`openapi` is set twice"), "{both}");
}

#[test]
fn a_description_that_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.json");
    fs::File::create(&large).unwrap().set_len(super::LARGEST + 1).unwrap();
    assert!(super::bytes(&large).unwrap_err().ends_with("large.json is larger than 64 MiB"));
}

#[test]
fn of_a_large_descriptor_set_the_services_are_sent() {
    let field = |number: i32| FieldDescriptorProto {
        name: Some(format!("a_field_of_some_length_{number}")),
        number: Some(number),
        r#type: Some(Type::Message as i32),
        type_name: Some(".example.v1.AnotherMessageOfSomeLength".to_owned()),
        ..FieldDescriptorProto::default()
    };
    let message = |number: usize| DescriptorProto {
        name: Some(format!("Message{number}")),
        field: (1..40).map(field).collect(),
        ..DescriptorProto::default()
    };
    let method = MethodDescriptorProto {
        name: Some("Watch".to_owned()),
        input_type: Some(".example.v1.Message0".to_owned()),
        output_type: Some(".example.v1.Message1".to_owned()),
        options: Some(MethodOptions {
            deprecated: Some(true),
            idempotency_level: Some(IdempotencyLevel::NoSideEffects as i32),
            ..MethodOptions::default()
        }),
        server_streaming: Some(true),
        ..MethodDescriptorProto::default()
    };
    let file = |number: usize| FileDescriptorProto {
        name: Some(format!("example/{number}.proto")),
        package: Some(format!("example.v{number}")),
        message_type: (0..60).map(message).collect(),
        // One that other files import.
        service: (number > 0)
            .then(|| ServiceDescriptorProto {
                name: Some("Things".to_owned()),
                method: vec![method.clone()],
                ..ServiceDescriptorProto::default()
            })
            .into_iter()
            .collect(),
        source_code_info: Some(SourceCodeInfo {
            location: vec![Location {
                leading_comments: Some("comment ".repeat(9_000)),
                ..Location::default()
            }],
        }),
        ..FileDescriptorProto::default()
    };
    let set = FileDescriptorSet { file: (0..30).map(file).collect() }.encode_to_vec();
    assert!(set.len() > 4 << 20, "{}", set.len());
    let sent = match describe("{protobufFile: things.pb}", &[("things.pb", &set)]).unwrap() {
        Description::Protobuf(bytes) => bytes,
        other @ Description::Openapi(_) => panic!("{other:?}"),
    };
    assert!(sent.len() < 4 << 10, "{}", sent.len());
    let sent = FileDescriptorSet::decode(&sent[..]).unwrap();
    assert_eq!(sent.file.len(), 29);
    assert_eq!(sent.file[0].package(), "example.v1");
    let kept = &sent.file[0].service[0].method[0];
    assert_eq!(kept.options.as_ref().unwrap().idempotency_level(), IdempotencyLevel::NoSideEffects);
    assert_eq!(kept.options.as_ref().unwrap().deprecated, None);
    assert!(kept.server_streaming() && !kept.client_streaming());
    assert!(sent.file.iter().all(|file| file.message_type.is_empty() && file.source_code_info.is_none()));
}

#[test]
fn standard_input_names_no_files() {
    let text =
        "kind: VirtualNode\nmesh: shop\nname: orders\nspec:\n  listeners:\n  - api: {openapiFile: a.yaml}\n";
    let source =
        crate::documents::problem::Source { name: "<stdin>".to_owned(), text: text.to_owned(), folder: None };
    let told = crate::documents::read::parse(vec![source], None).unwrap_err().to_string();
    assert!(told.contains("standard input lies nowhere: write openapi: here"), "{told}");
}
