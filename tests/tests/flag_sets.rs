//! Environments and whole sets of flags from the command line: what a team does with flags it brings along.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

use featureops_tests::line::Line;
use featureops_tests::runtime;
use featureops_tests::site::Site;
use serde_json::{Value, json};

const DOCUMENT: &str = r#"{
  "$evaluators": {"staff": {"ends_with": [{"var": "email"}, "@example.com"]}},
  "flags": {
    "banner": {
      "state": "ENABLED",
      "variants": {"on": true, "off": false},
      "defaultVariant": "off"
    },
    "limit": {"state": "DISABLED", "variants": {"low": 1, "high": 10}, "defaultVariant": "low"}
  }
}"#;

#[test]
fn an_environment_and_a_document_from_the_command_line() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);

        line.says(0, "no environments", &["environment", "list"]);
        line.says(0, "never set", &["environment", "get"]);
        line.ends(2, &["environment", "set"]);
        let shared = line.file("evaluators.json", r#"{"staff": {"==": [{"var": "role"}, "staff"]}}"#);
        let one = line.file("one.json", r#"{"==": [1, 1]}"#);
        let set = ["environment", "set", "--source", "flags.json", "--metadata", "flagSetId=shop"];
        let more = ["--fractional", "3", "--evaluators", &shared, "--evaluator"];
        let named = format!("always={one}");
        let set = [set.as_slice(), &more, &[&named]].concat();
        line.says(0, "would set", &[set.as_slice(), &["--dry-run"]].concat());
        line.says(0, "version 1", &set);
        let held = line.json(0, &["environment", "get"]);
        assert_eq!(
            (&held["source"], &held["fractional"]),
            (&json!("flags.json"), &json!("FRACTIONAL_VERSION_3"))
        );
        assert_eq!(held["evaluators"]["always"], r#"{"==":[1,1]}"#);
        // What is not named stays; what was read can be written again.
        line.says(0, "version 2", &["environment", "set", "--description", "customers"]);
        let yaml = line.file("environment.yaml", &line.ends(0, &["environment", "get", "-o", "yaml"]));
        line.says(0, "version 3", &["environment", "set", "--file", &yaml]);
        line.ends(5, &["environment", "set", "--file", &yaml]);
        line.ends(5, &["environment", "set", "--no-evaluators", "--etag", "n1"]);
        line.says(0, "flags.json", &["environment", "list"]);
        line.says(
            8,
            "environment.evaluators.bad",
            &["environment", "set", "--file", &line.file("bad.yaml", "evaluators: {bad: '{'}\n")],
        );

        let document = line.file("flags.json", DOCUMENT);
        line.says(0, "would import", &["flag", "import", &document, "--dry-run"]);
        line.ends(3, &["flag", "get", "banner"]);
        line.says(0, "2 changed", &["flag", "import", &document]);
        line.says(0, "2 unchanged", &["flag", "import", &document]);
        // A wrapper of shared rules is no rule, wherever it is given.
        let wrapped = line.file("wrapped.json", r#"{"$evaluators": {"staff": true}}"#);
        let named = format!("staff={wrapped}");
        line.says(2, "--evaluators", &["environment", "set", "--evaluator", &named]);
        let twice = line.file("twice.json", r#"{"$evaluators": {"$evaluators": {"staff": true}}}"#);
        line.says(8, "environment.evaluators.$evaluators", &["environment", "set", "--evaluators", &twice]);
        line.says(
            2,
            "no shared rules",
            &["environment", "set", "--evaluators", &line.file("bare.json", r#"{"flags": {}}"#)],
        );
        let again =
            line.file("again.json", r#"{"flags": {}, "$evaluators": {"$evaluators": {"staff": true}}}"#);
        line.says(8, "$evaluators.$evaluators", &["flag", "import", &again]);
        line.says(0, "would set", &["environment", "set", "--evaluators", &wrapped, "--dry-run"]);
        // What a repeated request is told of many is how many they were.
        let many: serde_json::Map<String, Value> = (0..70)
            .map(|n| (format!("f{n}"), json!({"state": "ENABLED", "variants": {"on": true}})))
            .collect();
        let many = line.file("many.json", &json!({ "flags": many }).to_string());
        let import = ["--environment", "many", "flag", "import", &many];
        for _ in 0..2 {
            let named = [import.as_slice(), &["--request-id", "m-1"]].concat();
            line.says(0, "70 changed, 0 archived, 0 unchanged", &named);
        }
        line.says(0, "0 changed, 0 archived, 70 unchanged", &import);
        let exported: Value = serde_json::from_str(&line.ends(0, &["flag", "export"])).unwrap();
        let given: Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(exported["flags"], given["flags"]);
        assert_eq!(exported["$evaluators"], given["$evaluators"]);
        line.says(0, "kept as flagd", &["flag", "get", "banner"]);
        line.says(0, "import", &["flag", "history", "banner"]);
        let less = line.file(
            "less.yaml",
            "flags:\n  limit: {state: ENABLED, variants: {low: 1}, defaultVariant: low}\n",
        );
        let pruned = line.json(0, &["flag", "import", &less, "--prune"]);
        assert_eq!((&pruned["changed"], &pruned["archived"]), (&json!(["limit"]), &json!(["banner"])));
        line.says(8, "flags", &["flag", "import", &line.file("odd.json", "{}")]);
        line.says(2, "split", &["flag", "import", &line.file("large.json", &" ".repeat((4 << 20) + 1))]);
        drop(node);
    });
}

#[test]
fn flags_promoted_from_the_command_line() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);
        let set = |environment: &str, flag: &str, more: &[&str]| {
            let own = ["--environment", environment, "flag", "set", flag, "--type", "boolean"];
            let variants = ["--variant", "on=true", "--variant", "off=false", "--safe", "off"];
            line.ends(0, &[own.as_slice(), &variants, more].concat());
        };
        set("dev", "cart", &["--default", "off"]);
        set("dev", "checkout", &["--default", "on", "--prerequisite", "cart=on"]);
        set("prod", "checkout", &["--default", "off"]);
        set("prod", "old", &["--default", "off"]);
        let promote = ["environment", "promote", "--from", "dev", "--to", "prod"];
        let with = |more: &[&'static str]| [promote.as_slice(), more].concat();
        let default = || {
            let held = line.json(0, &["--environment", "prod", "flag", "get", "checkout"]);
            held["defaultVariant"].as_str().unwrap().to_owned()
        };

        // A rehearsal says what would differ, and nothing comes.
        line.says(0, "would change 2 flags of prod; 0 archived, 0 as they are", &with(&["--dry-run"]));
        line.says(0, "default_variant, prerequisites", &with(&["--dry-run"]));
        line.ends(3, &["--environment", "prod", "flag", "get", "cart"]);
        assert_eq!(default(), "off");
        // Refused: what rests on nothing there, what is not there to come, the same place, too much at once.
        line.says(8, "flags.checkout.prerequisites", &with(&["--flag", "checkout"]));
        line.says(3, "flags[0]", &with(&["--flag", "nothing"]));
        line.ends(2, &with(&["--flag", "cart", "--prune"]));
        line.says(8, "name another environment", &["environment", "promote", "--from", "dev", "--to", "dev"]);
        assert_eq!(default(), "off");
        // What an experiment holds there stays.
        line.ends(
            0,
            &[
                "--environment",
                "prod",
                "metric",
                "set",
                "sales",
                "--kind",
                "proportion",
                "--direction",
                "higher",
            ],
        );
        let experiment = ["--environment", "prod", "experiment"];
        let create =
            ["create", "e", "--flag", "checkout", "--arm", "off", "--arm", "on", "--primary-metric", "sales"];
        line.ends(0, &[experiment.as_slice(), &create].concat());
        line.ends(0, &[experiment.as_slice(), &["start", "e"]].concat());
        line.says(4, "an experiment holds it there", &promote);
        line.ends(0, &[experiment.as_slice(), &["stop", "e"]].concat());
        assert_eq!(default(), "off");

        let done = line.json(0, &with(&["--prune", "--request-id", "p-1"]));
        let told = (&done["changed"], &done["archived"], &done["changedCount"]);
        assert_eq!(told, (&json!(["cart", "checkout"]), &json!(["old"]), &json!(2)));
        assert_eq!(default(), "on");
        line.says(0, "changed 0 flags of prod; 0 archived, 2 as they are", &promote);
        // In the caller's own name, as an import.
        let agent = ["--principal", "agent:copilot"];
        line.says(0, "0 flags of prod", &[agent.as_slice(), &promote].concat());
        let document = line.ends(0, &["--environment", "dev", "flag", "export"]);
        let document = line.file("dev.json", &document);
        let import = ["--environment", "prod", "flag", "import", &document, "--dry-run"];
        line.says(0, "would import", &[agent.as_slice(), &import].concat());
        line.ends(2, &[["--principal", "copilot"].as_slice(), &promote].concat());
        line.says(0, "from environments/dev", &["audit", "list"]);
        line.says(0, "agent:copilot", &["audit", "list"]);
        drop(node);
    });
}

#[test]
fn a_test_table_and_a_lint_end_as_they_should() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);
        let flag = "purpose: release\ntype: VALUE_TYPE_BOOLEAN\nvariants: {'on': true, 'off': false}\n\
                    defaultVariant: 'off'\nsafeVariant: 'off'\nmetadata: {team: web}\nrules:\n\
                    - {id: eu, conditions: [{attribute: country, operator: IN, values: [DE, FR]}], variant: 'on'}\n";
        let file = line.file("flag.yaml", flag);
        line.ends(0, &["flag", "set", "banner", "--file", &file]);
        let held = line.json(0, &["flag", "get", "banner"]);
        assert_eq!((&held["purpose"], &held["metadata"]["team"]), (&json!("RELEASE"), &json!("web")));
        let definitions = line.file("named.yaml", &format!("name: banner\n{flag}"));

        let good = line.file(
            "good.csv",
            "flag,unit,country,variant,value,reason,error\n\
             banner,u1,DE,on,true,targeting_match,\nbanner,u1,US,off,false,DEFAULT,\nnothing,u1,,,,,FLAG_NOT_FOUND\n",
        );
        let bad = line.file("bad.json", r#"[{"flag": "banner", "variant": "on", "name": "anonymous"}]"#);
        for offline in [None, Some(definitions.as_str())] {
            let of: Vec<&str> = offline.map_or_else(Vec::new, |path| vec!["--definitions", path]);
            line.says(0, "3 passed, 0 failed", &[&["flag", "test", "--file", &good], of.as_slice()].concat());
            line.says(1, "expected on, got off", &[&["flag", "test", "--file", &bad], of.as_slice()].concat());
            let told = line.json(1, &[&["flag", "test", "--file", &bad], of.as_slice()].concat());
            assert_eq!((&told["failed"], &told["cases"][0]["got"]["reason"]), (&json!(1), &json!("DEFAULT")));
            line.says(0, "nothing found", &[&["flag", "lint", "--strict"], of.as_slice()].concat());
        }
        line.says(2, "did you mean 'variant'", &["flag", "test", "--file", &line.file("odd.json", r#"[{"flag": "f", "varant": "x"}]"#)]);

        line.ends(0, &["flag", "set", "shadowed", "--type", "boolean", "--variant", "on=true", "--variant", "off=false", "--rule", "always -> on", "--rule", "vip exists -> off"]);
        line.says(0, "rule-never-matches", &["flag", "lint"]);
        line.says(1, "findings", &["flag", "lint", "--strict"]);
        line.says(0, "nothing found", &["flag", "lint", "--strict", "banner"]);
        let found = line.json(0, &["flag", "lint", "shadowed"]);
        let codes: Vec<&str> = found["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["no-default", "no-safe", "rule-never-matches"]);

        // Without a server there is still a file.
        drop(node);
        line.says(0, "3 passed", &["flag", "test", "--file", &good, "--definitions", &definitions]);
        line.ends(6, &["--request-timeout", "1s", "flag", "lint"]);
        line.says(0, "nothing found", &["flag", "lint", "--definitions", &definitions]);
    });
}

#[test]
fn flags_that_rest_on_another_and_units_that_are_forced() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);
        let set = |key: &'static str, more: &[&'static str]| {
            let options = ["--type", "boolean", "--variant", "on=true", "--variant", "off=false"];
            let served = ["--default", "off", "--safe", "on", "--rule", "country = \"DE\" -> on"];
            [&["flag", "set", key], options.as_slice(), &served, more].concat()
        };
        line.says(8, "no such flag", &set("checkout", &["--prerequisite", "new-cart=on"]));
        line.ends(0, &set("new-cart", &[]));
        line.says(8, "no such variant", &set("checkout", &["--prerequisite", "new-cart=beta"]));
        line.ends(0, &set("checkout", &["--prerequisite", "new-cart=on"]));
        let round = ["flag", "set", "new-cart", "--update", "--prerequisite", "checkout=on"];
        line.says(8, "new-cart -> checkout -> new-cart", &round);
        line.says(4, "flag checkout names it", &["flag", "archive", "new-cart"]);
        line.says(0, "new-cart  on", &["flag", "get", "checkout"]);

        let explain = |country: &'static str| {
            line.ends(0, &["flag", "explain", "checkout", "--unit", "qa-1", "-a", country])
        };
        let steps = explain("country=DE");
        assert!(steps.contains("prerequisite new-cart") && steps.contains("serves on"), "{steps}");
        assert!(explain("country=FR").contains("serves off, not on"));
        // A tripped flag serves its safe variant, also to those that rest on it.
        line.ends(0, &["trip", "new-cart", "--reason", "support is on fire"]);
        assert!(explain("country=FR").contains("serves on"));
        line.ends(0, &["resume", "new-cart", "--reason", "fixed"]);

        line.says(
            8,
            "no such variant",
            &["flag", "force", "checkout", "--unit", "qa-1", "--variant", "beta"],
        );
        line.says(0, "forced units", &["flag", "force", "checkout", "--unit", "qa-1", "--variant", "on"]);
        let steps = explain("country=FR");
        assert!(steps.contains("on = true, because targeting match") && steps.contains("forced"), "{steps}");
        assert_eq!(line.json(0, &["flag", "get", "checkout"])["forced"], json!({"qa-1": "on"}));

        // As a document both are targeting, and an import says what goes.
        let document = line.ends(0, &["flag", "export"]);
        let parsed: Value = serde_json::from_str(&document).unwrap();
        let conditions = parsed["flags"]["checkout"]["targeting"]["if"].as_array().unwrap();
        assert_eq!(conditions[0], json!({"in": [{"var": "targetingKey"}, ["qa-1"]]}));
        line.says(0, "let go of units", &["flag", "unforce", "checkout", "--unit", "qa-1"]);
        assert!(explain("country=FR").contains("serves off, not on"));
        let file = line.file("flags.json", &document);
        line.says(0, "prerequisites and forced units go", &["flag", "import", &file]);
        assert!(explain("country=FR").contains("on = true"));
        assert!(line.json(0, &["flag", "get", "checkout"]).get("prerequisites").is_none());
        drop(node);
    });
}

#[test]
fn segments_with_clauses_and_a_list_from_a_file() {
    runtime().block_on(async {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let line = Line(&site);
        line.ends(0, &["segment", "set", "staff", "--clause", "email ends_with \"@example.com\""]);
        line.says(8, "a -> a", &["segment", "set", "a", "--clause", "in-segment(a)"]);
        let nested = ["--clause", "in-segment(staff) and plan = \"pro\"", "--clause", "country = \"DE\""];
        line.says(
            0,
            "set segment beta, version 1",
            &[&["segment", "set", "beta", "--owner", "web"], nested.as_slice()].concat(),
        );
        let unknown = [
            "flag",
            "set",
            "f",
            "--type",
            "boolean",
            "--variant",
            "on=true",
            "--variant",
            "off=false",
            "--default",
            "off",
            "--safe",
            "off",
            "--rule",
            "in-segment(nobody) -> on",
        ];
        line.says(8, "create it first", &unknown);
        let known = [&unknown[..unknown.len() - 1], &["in-segment(beta) -> on"]].concat();
        line.ends(0, &known);

        // More than a chunk, and twice: what is there already is no error.
        let units: String = (0..6_000).map(|n| format!("u{n}\n")).collect();
        let file = line.file("units.txt", &units);
        line.says(0, "added 6,000 units; 0 were already", &["segment", "add", "beta", "--file", &file]);
        line.says(0, "added 0 units; 6,000 were already", &["segment", "add", "beta", "--file", &file]);
        let table = line.file("units.csv", "id;user\n1;u1\n2;nobody\n");
        line.says(
            0,
            "removed 1 units; 1 were not on the list of beta, which has 5,999",
            &["segment", "remove", "beta", "--file", &table, "--column", "user", "--delimiter", ";"],
        );
        let told = line.json(0, &["segment", "add", "beta", "--unit", "ada", "--request-id", "r1"]);
        assert_eq!(told, line.json(0, &["segment", "add", "beta", "--unit", "ada", "--request-id", "r1"]));
        assert_eq!(told, json!({"added": 1, "unitCount": "6000"}));

        line.says(0, "the unit is in beta", &["segment", "test", "beta", "--unit", "ada"]);
        line.says(0, "is not in beta", &["segment", "test", "beta", "--unit", "u1"]);
        line.says(
            0,
            "clause 0 holds",
            &["segment", "test", "beta", "-a", "email=a@example.com", "-a", "plan=pro"],
        );
        line.says(0, "on = true, because targeting match", &["flag", "explain", "f", "--unit", "u2"]);
        line.says(0, "in-segment(beta) -> on", &["flag", "get", "f"]);
        line.says(0, "6,000", &["segment", "list"]);

        // What was printed is what can be set again; the list stays as it is.
        let printed = line.ends(0, &["segment", "get", "beta", "-o", "yaml"]);
        let file = line.file("beta.yaml", &printed);
        line.says(0, "set segment beta", &["segment", "set", "beta", "--file", &file]);
        assert_eq!(line.json(0, &["segment", "get", "beta"])["unitCount"], "6000");
        line.says(0, "the list of segment beta is not in it", &["flag", "lint"]);
        line.ends(0, &["segment", "set", "idle"]);
        line.says(0, "segment-unused", &["flag", "lint"]);
        line.says(4, "flag f asks about it", &["segment", "delete", "beta"]);
        line.says(0, "deleted segment idle", &["segment", "delete", "idle"]);
        line.ends(3, &["segment", "get", "idle"]);
        drop(node);
    });
}
