//! Every operator by rule, context and result, as a table.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail")]

mod json;

use featureops_evaluation::{Context, logic::apply};
use featureops_proto::v1::{Environment, EvaluationError, FractionalVersion};
use json::{json_of, struct_of};
use serde_json::Value as Json;

const NOW_MS: i64 = 1_795_000_000_999;

fn result(rule: &str, context: &str) -> Result<Json, EvaluationError> {
    let environment = Environment {
        fractional: FractionalVersion::FractionalVersion2.into(),
        evaluators: [("adult", r#"{">=": [{"var": "age"}, 18]}"#), ("nested", r#"{"!": {"$ref": "adult"}}"#)]
            .map(|(name, rule)| (name.to_owned(), rule.to_owned()))
            .into(),
        ..Environment::default()
    };
    let context = struct_of(&serde_json::from_str(context).unwrap());
    apply(rule, &environment, "flag", &Context::new(&context), NOW_MS).map(|value| json_of(&value))
}

fn check(table: &[(&str, &str, &str)]) {
    for (rule, context, wanted) in table {
        let wanted: Json = serde_json::from_str(wanted).unwrap();
        let found = result(rule, context).unwrap_or_else(|error| Json::from(error.as_str_name()));
        // 1 and 1.0 are one number.
        let equal = found == wanted || found.as_f64().is_some_and(|number| Some(number) == wanted.as_f64());
        assert!(equal, "{rule} on {context}: {found}, not {wanted}");
    }
}

const C: &str = r#"{"a": 1, "t": "text", "list": [1, [2, 3], {"b": "c"}], "o": {"p": {"q": null, "r": 5}},
    "targetingKey": "ada", "$flagd": {"flagKey": "spoofed", "mine": 1}, "1": "one", "users": [{"age": 5}, {"age": 20}]}"#;

#[test]
fn var() {
    check(&[
        (r#"{"var": "a"}"#, C, "1"),
        (r#"{"var": ["a"]}"#, C, "1"),
        (r#"{"var": ["none", 7]}"#, C, "7"),
        (r#"{"var": ["a", 7]}"#, C, "1"),
        (r#"{"var": ["o.p.q", "null takes the default"]}"#, C, r#""null takes the default""#),
        (r#"{"var": "none"}"#, C, "null"),
        (r#"{"var": "o.p.r"}"#, C, "5"),
        (r#"{"var": "o.p.r.s"}"#, C, "null"),
        (r#"{"var": "o.none.r"}"#, C, "null"),
        (r#"{"var": "list.0"}"#, C, "1"),
        (r#"{"var": "list.1.1"}"#, C, "3"),
        (r#"{"var": "list.2.b"}"#, C, r#""c""#),
        (r#"{"var": "list.9"}"#, C, "null"),
        (r#"{"var": "list.-1"}"#, C, "null"),
        (r#"{"var": "t.length"}"#, C, "null"),
        (r#"{"var": 1}"#, C, r#""one""#),
        (r#"{"var": {"cat": ["o.p", ".r"]}}"#, C, "5"),
        (r#"{"var": [{"if": [false, "a"]}]}"#, r#"{"x": 1}"#, "null"),
        (r#"{"var": [{"cat": "none"}, 3]}"#, C, "3"),
        (r#"{"!!": [{"var": ""}]}"#, C, "true"),
        (r#"{"!!": [{"var": []}]}"#, "{}", "true"),
        (r#"{"var": "targetingKey"}"#, C, r#""ada""#),
        (r#"{"var": "$flagd.flagKey"}"#, C, r#""flag""#),
        (r#"{"var": "$flagd.timestamp"}"#, C, "1795000000"),
        (r#"{"var": "$flagd.mine"}"#, C, "null"),
        (r#"{"var": {"cat": "$flagd.flagKey"}}"#, C, r#""flag""#),
        (r#"{"!!": [{"var": "$flagd"}]}"#, "{}", "true"),
    ]);
}

#[test]
fn missing() {
    check(&[
        (r#"{"missing": ["a", "z"]}"#, C, r#"["z"]"#),
        (r#"{"missing": "z"}"#, C, r#"["z"]"#),
        (r#"{"missing": []}"#, C, "[]"),
        (r#"{"missing": {"merge": ["z", "o.p.q", "o.p.r"]}}"#, C, r#"["z", "o.p.q"]"#),
        (r#"{"missing_some": [1, ["a", "z"]]}"#, C, "[]"),
        (r#"{"missing_some": [2, ["a", "y", "z"]]}"#, C, r#"["y", "z"]"#),
        (r#"{"missing_some": [2, "a"]}"#, C, "[]"),
    ]);
}

#[test]
fn logic() {
    check(&[
        (r#"{"if": [true, 1, 2]}"#, C, "1"),
        (r#"{"if": [false, 1, 2]}"#, C, "2"),
        (r#"{"if": [false, 1]}"#, C, "null"),
        (r#"{"if": [0, 1, [], 2, "", 3, null, 4, {"var": "none"}, 5, 6]}"#, C, "6"),
        (r#"{"if": [false, 1, "0", 2, 3]}"#, C, "2"),
        (r#"{"if": [7]}"#, C, "7"),
        (r#"{"if": 7}"#, C, "7"),
        (r#"{"if": [true, {"+": [1, 1]}, {"none of these": 1}]}"#, C, "2"),
        (r#"{"?:": [true, 1, 2]}"#, C, "1"),
        (r#"{"and": [1, "x", true]}"#, C, "true"),
        (r#"{"and": [1, 0, {"none of these": 1}]}"#, C, "0"),
        (r#"{"and": []}"#, C, "null"),
        (r#"{"or": [0, "", "x", {"none of these": 1}]}"#, C, r#""x""#),
        (r#"{"or": [0, false, null]}"#, C, "null"),
        (r#"{"!": true}"#, C, "false"),
        (r#"{"!": [[]]}"#, C, "true"),
        (r#"{"!!": ["0"]}"#, C, "true"),
        (r#"{"!!": [{"var": "o"}]}"#, C, "true"),
        (r#"{"!!": [{"var": "e"}]}"#, r#"{"e": {}}"#, "false"),
    ]);
}

#[test]
fn comparison() {
    check(&[
        (r#"{"==": [1, "1"]}"#, C, "true"),
        (r#"{"==": [1, true]}"#, C, "true"),
        (r#"{"==": [{"var": "none"}, null]}"#, C, "true"),
        (r#"{"==": [{"var": "none"}, 0]}"#, C, "false"),
        (r#"{"==": [[], []]}"#, C, "false"),
        (r#"{"!=": [1, "2"]}"#, C, "true"),
        (r#"{"===": [1, "1"]}"#, C, "false"),
        (r#"{"===": ["a", "a"]}"#, C, "true"),
        (r#"{"!==": [1, "1"]}"#, C, "true"),
        (r#"{"<": [1, 2]}"#, C, "true"),
        (r#"{"<": [1, 2, 3]}"#, C, "true"),
        (r#"{"<": [1, 4, 3]}"#, C, "false"),
        (r#"{"<=": [1, 1, 1]}"#, C, "true"),
        (r#"{"<": ["b", "a"]}"#, C, "false"),
        (r#"{"<": ["10", "9"]}"#, C, "true"),
        (r#"{"<": ["10", 9]}"#, C, "false"),
        (r#"{">": [2, 1]}"#, C, "true"),
        (r#"{">=": ["2", 2]}"#, C, "true"),
        (r#"{"<": [{"var": "none"}, 1]}"#, C, "true"),
        (r#"{"<": ["x", 1]}"#, C, "false"),
        (r#"{">=": ["x", 1]}"#, C, "false"),
        (r#"{"<": [1]}"#, C, "false"),
        (r#"{"<": [[1], 2]}"#, C, "false"),
    ]);
}

#[test]
fn arithmetic() {
    check(&[
        (r#"{"+": [1, "2", 3.5, true, null]}"#, C, "7.5"),
        (r#"{"+": "3"}"#, C, "3"),
        (r#"{"+": []}"#, C, "0"),
        (r#"{"*": [2, 3, 4]}"#, C, "24"),
        (r#"{"*": []}"#, C, "1"),
        (r#"{"-": 2}"#, C, "-2"),
        (r#"{"-": [5, 2]}"#, C, "3"),
        (r#"{"/": [7, 2]}"#, C, "3.5"),
        (r#"{"/": [7, 0]}"#, C, "null"),
        (r#"{"%": [7, 3]}"#, C, "1"),
        (r#"{"%": [-7, 3]}"#, C, "-1"),
        (r#"{"+": ["x"]}"#, C, "null"),
        (r#"{"max": [1, "3", 2]}"#, C, "3"),
        (r#"{"min": [1, 3, -2]}"#, C, "-2"),
        (r#"{"max": []}"#, C, "null"),
    ]);
}

#[test]
fn texts() {
    check(&[
        (r#"{"cat": ["a", 1, 1.5, true, null, [1, [2, "x"]]]}"#, C, r#""a11.5true1,2,x""#),
        (r#"{"cat": []}"#, C, r#""""#),
        (r#"{"cat": " a "}"#, C, r#"" a ""#),
        (r#"{"cat": [{"cat": ["a", "b"]}, {"cat": ["c", {"var": "t"}]}]}"#, C, r#""abctext""#),
        (r#"{"substr": ["jsonlogic", 4]}"#, C, r#""logic""#),
        (r#"{"substr": ["jsonlogic", -5]}"#, C, r#""logic""#),
        (r#"{"substr": ["jsonlogic", 1, 3]}"#, C, r#""son""#),
        (r#"{"substr": ["jsonlogic", 4, -2]}"#, C, r#""log""#),
        (r#"{"substr": ["jsonlogic", -99, 4]}"#, C, r#""json""#),
        (r#"{"substr": ["jsonlogic", 99]}"#, C, r#""""#),
        (r#"{"substr": ["jsonlogic", 4, -99]}"#, C, r#""""#),
        (r#"{"substr": ["ünïcödé", 2, 3]}"#, C, r#""ïcö""#),
        (r#"{"substr": [{"cat": ["ab", "cd"]}, 1, 2]}"#, C, r#""bc""#),
        (r#"{"substr": [12345, 1, 2]}"#, C, r#""23""#),
        (r#"{"in": ["Spring", "Springfield"]}"#, C, "true"),
        (r#"{"in": ["i", "team"]}"#, C, "false"),
        (r#"{"in": [1, "a1"]}"#, C, "true"),
        (r#"{"in": [null, "null"]}"#, C, "false"),
        (r#"{"in": ["a", {"cat": ["b", "a"]}]}"#, C, "true"),
        (r#"{"in": ["text", ["x", "text", 1]]}"#, C, "true"),
        (r#"{"in": [1, ["1", true]]}"#, C, "false"),
        (r#"{"in": [{"var": "none"}, ["1", null]]}"#, C, "true"),
        (r#"{"in": [1, {"var": "list"}]}"#, C, "true"),
        (r#"{"in": ["1", {"var": "list"}]}"#, C, "false"),
        (r#"{"in": ["p", {"var": "o"}]}"#, C, "false"),
        (r#"{"in": [{"var": "t"}, [{"var": "t"}]]}"#, C, "true"),
        (r#"{"starts_with": [{"var": "t"}, "te"]}"#, C, "true"),
        (r#"{"starts_with": [{"var": "t"}, "x"]}"#, C, "false"),
        (r#"{"ends_with": [{"var": "t"}, "xt"]}"#, C, "true"),
        (r#"{"ends_with": [{"var": "a"}, "1"]}"#, C, "null"),
        (r#"{"ends_with": ["1"]}"#, C, "null"),
        (r#"{"starts_with": ["a", "a", "a"]}"#, C, "null"),
        (r#"{"sem_ver": ["1.2.3", ">", "1.2"]}"#, C, "true"),
        (r#"{"sem_ver": [1.2, "=", "1.2.0"]}"#, C, "true"),
        (r#"{"sem_ver": [null, "=", "1.2.0"]}"#, C, "null"),
        (r#"{"sem_ver": ["1.2.3", ">"]}"#, C, "null"),
        (r#"{"sem_ver": ["1.2.3", "==", "1.2.3"]}"#, C, "null"),
    ]);
}

#[test]
fn lists() {
    check(&[
        (r#"{"merge": [1, [2, [3]], {"var": "list.1"}]}"#, C, "[1, 2, [3], 2, 3]"),
        (r#"{"merge": []}"#, C, "[]"),
        (r#"{"map": [[1, 2], {"*": [{"var": ""}, 2]}]}"#, C, "[2, 4]"),
        (r#"{"map": [{"var": "users"}, {"var": "age"}]}"#, C, "[5, 20]"),
        (r#"{"map": [{"var": "none"}, 1]}"#, C, "[]"),
        (r#"{"map": [[1, 2], {"map": [[3, 4], {"var": ""}]}]}"#, C, "[[3, 4], [3, 4]]"),
        (r#"{"filter": [[1, 2, 3], {">": [{"var": ""}, 1]}]}"#, C, "[2, 3]"),
        (r#"{"filter": [{"var": "users"}, {">": [{"var": "age"}, 10]}]}"#, C, r#"[{"age": 20}]"#),
        (r#"{"all": [[1, 2], {">": [{"var": ""}, 0]}]}"#, C, "true"),
        (r#"{"all": [[], true]}"#, C, "false"),
        (r#"{"none": [[], true]}"#, C, "true"),
        (r#"{"none": [[1], {"==": [{"var": ""}, 2]}]}"#, C, "true"),
        (r#"{"some": [[1, 2], {"==": [{"var": ""}, 2]}]}"#, C, "true"),
        (r#"{"some": [{"var": "users"}, {"$ref": "adult"}]}"#, C, "true"),
        (r#"{"reduce": [[1, 2, 3], {"+": [{"var": "current"}, {"var": "accumulator"}]}, 10]}"#, C, "16"),
        (
            r#"{"reduce": [["a", "b"], {"cat": [{"var": "accumulator"}, {"var": "current"}]}, ""]}"#,
            C,
            r#""ab""#,
        ),
        (
            r#"{"reduce": [{"var": "users"}, {"max": [{"var": "current.age"}, {"var": "accumulator"}]}, 0]}"#,
            C,
            "20",
        ),
        (r#"{"reduce": [{"var": "none"}, 1, 7]}"#, C, "7"),
        (r#"{"reduce": [[1], {"!!": [{"var": ""}]}, 0]}"#, C, "true"),
        // Items see themselves only.
        (r#"{"some": [[1], {"==": [{"var": ""}, {"var": "a"}]}]}"#, C, "false"),
        (r#"[1, {"+": [1, 1]}]"#, C, "[1, 2]"),
    ]);
}

#[test]
fn shared_rules() {
    check(&[
        (r#"{"if": [{"$ref": "adult"}, "yes", "no"]}"#, r#"{"age": 18}"#, r#""yes""#),
        (r#"{"$ref": "nested"}"#, r#"{"age": 18}"#, "false"),
        (r#"{"$ref": "none"}"#, "{}", r#""PARSE_ERROR""#),
        (r#"{"if": [true, 1, {"$ref": "none"}]}"#, "{}", "1"),
        (r#"{"none of these": 1}"#, "{}", r#""PARSE_ERROR""#),
        (r#"{"starts_with": [{"none of these": 1}]}"#, "{}", r#""PARSE_ERROR""#),
        ("{}", "{}", "null"),
        (r#""plain""#, "{}", r#""plain""#),
    ]);
}

#[test]
fn bombs_end_quickly() {
    let nested = |depth: usize| (0..depth).fold("1".to_owned(), |inner, _| format!(r#"{{"!": [{inner}]}}"#));
    let list = serde_json::to_string(&(0..1_000).collect::<Vec<_>>()).unwrap();
    let square = format!(r#"{{"map": [{list}, {{"map": [{list}, {{"var": ""}}]}}]}}"#);
    let double = format!(
        r#"{{"reduce": [{list}, {{"cat": [{{"var": "accumulator"}}, {{"var": "accumulator"}}]}}, "xx"]}}"#
    );
    let merge = format!(
        r#"{{"reduce": [{list}, {{"merge": [{{"var": "accumulator"}}, {{"var": "accumulator"}}]}}, [1]]}}"#
    );
    let visits = format!(r#"{{"reduce": [{list}, {{"some": [{list}, false]}}, 0]}}"#);
    for rule in [nested(10_000), nested(100), square, double, merge, visits] {
        assert_eq!(result(&rule, "{}"), Err(EvaluationError::ParseError));
    }
    assert_eq!(result(&nested(60), "{}"), Ok(Json::from(true)));
}
