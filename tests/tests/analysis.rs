//! The analysis of files, as a person uses it: no server, real files, every way a file can be wrong.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use featureops_tests::binary;
use serde_json::Value;
use tempfile::TempDir;

struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(binary::featureops()).args(arguments).current_dir(self.folder.path()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[arguments, &["-o", "json"]].concat());
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        serde_json::from_slice(&ended.stdout).unwrap()
    }

    fn refuses(&self, word: &str, arguments: &[&str]) {
        let ended = self.run(arguments);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: no '{word}' in {said}");
    }
}

fn data_sets() -> PathBuf {
    std::env::var_os("TEST_DATA_SETS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from)
}

fn close(ours: &Value, theirs: f64, tolerance: f64) {
    let ours = ours.as_f64().unwrap_or(f64::NAN);
    assert!((ours - theirs).abs() <= tolerance * theirs.abs(), "{ours} against {theirs}");
}

/// Two arms of a known file: 60 and 45 of 200 converted; spend 1 to 4; a covariate that tells most of it.
fn shop() -> String {
    let mut text = String::from("user,arm,paid,spend,views,before,country\n");
    for user in 0..400 {
        let (arm, paid) = if user < 200 { ("a", user % 200 < 45) } else { ("b", user % 200 < 60) };
        let before = user % 7;
        let spend = 1.0 + f64::from(before) + f64::from(user % 3) * 0.1 + if arm == "b" { 0.5 } else { 0.0 };
        let country = ["at", "de"][user as usize % 2];
        writeln!(text, "u{user},{arm},{paid},{spend},{},{before},{country}", 2 + user % 2).unwrap();
    }
    text
}

const SHOP: [&str; 4] = ["--arm", "arm", "--control", "a"];

fn shop_with<'a>(file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["analyze", file], &SHOP[..], more].concat()
}

#[test]
fn a_files_numbers_are_those_of_its_sums() {
    let desk = Desk::new();
    let file = desk.file("shop.csv", &shop());
    let report =
        desk.json(&shop_with(&file, &["--metric", "paid=paid:proportion", "--metric", "spend=spend:mean"]));
    let paid = &report["metrics"][0];
    assert_eq!(paid["control"]["n"], 200.0);
    close(&paid["relative"]["estimate"], 60.0 / 45.0 - 1.0, 1e-12);
    let stats = desk.file(
        "stats.json",
        r#"{"control": {"type": "proportion", "n": 200, "sum": 45}, "treatment": {"type": "proportion", "n": 200, "sum": 60}}"#,
    );
    let sums = desk.json(&["analyze", "--stats", &stats]);
    for scale in ["relative", "absolute"] {
        for field in ["p_value", "estimate", "se"] {
            close(&paid[scale][field], sums[scale]["frequentist"][field].as_f64().unwrap(), 1e-12);
        }
    }
    // The covariate tells most of the spend: a narrower interval around about the same lift.
    let with = desk.json(&shop_with(&file, &["--metric", "spend=spend:mean", "--covariate", "before"]));
    let (plain, adjusted) = (&report["metrics"][1]["relative"], &with["metrics"][0]["relative"]);
    assert!(adjusted["se"].as_f64().unwrap() < 0.2 * plain["se"].as_f64().unwrap(), "{adjusted} {plain}");
    // Every sentence names results that are there.
    let ids: Vec<&str> =
        report["metrics"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    for sentence in report["decisions"][0]["narrative"].as_array().unwrap() {
        let named = sentence["statistics"].as_array().unwrap();
        assert!(
            !named.is_empty() && named.iter().all(|id| ids.contains(&id.as_str().unwrap())),
            "{sentence}"
        );
    }
}

#[test]
fn rows_of_a_unit_are_added_up_and_separators_found() {
    let desk = Desk::new();
    let once = desk.file("once.csv", &shop());
    // Each row split into two halves, out of order, with another separator and a byte order mark.
    let mut lines: Vec<String> = Vec::new();
    for line in shop().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let half = |part: f64| {
            let mut own: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            own[3] = format!("{}", fields[3].parse::<f64>().unwrap() * part);
            own[4] = format!("{}", fields[4].parse::<f64>().unwrap() * part);
            own.join(";")
        };
        lines.push(half(0.25));
        lines.insert(0, half(0.75));
    }
    let twice = desk.file(
        "twice.csv",
        &format!("\u{feff}user;arm;paid;spend;views;before;country\n{}\n", lines.join("\n")),
    );
    let more = [
        "--metric",
        "spend=spend:mean",
        "--metric",
        "each=spend:ratio/views",
        "--metric",
        "p50=spend:quantile@.5",
        "--metric",
        "cut=spend:winsorised@.9",
        "--metric",
        "paid=paid:proportion",
        "--segment",
        "country",
    ];
    let one = desk.json(&shop_with(&once, &more));
    let two = desk.json(&shop_with(&twice, &[&more[..], &["--unit", "user"]].concat()));
    for (list, count) in [("metrics", 5), ("results", 10)] {
        let of = |report: &Value| {
            if list == "metrics" { report["metrics"].clone() } else { report["segments"]["results"].clone() }
        };
        let (one, two) = (of(&one), of(&two));
        assert_eq!(one.as_array().unwrap().len(), count);
        for (left, right) in one.as_array().unwrap().iter().zip(two.as_array().unwrap()) {
            assert_eq!(left["id"], right["id"]);
            close(&left["absolute"]["estimate"], right["absolute"]["estimate"].as_f64().unwrap(), 1e-9);
            close(&left["absolute"]["se"], right["absolute"]["se"].as_f64().unwrap(), 1e-9);
        }
    }
}

#[test]
fn decisions_follow_the_stated_criteria() {
    let desk = Desk::new();
    let arms = |control: (u32, u32), treatment: (u32, u32)| {
        let mut text = String::from("arm,won,cost\n");
        for (arm, (units, won)) in [("a", control), ("b", treatment)] {
            for unit in 0..units {
                writeln!(text, "{arm},{},{}", u8::from(unit < won), 10 + unit % 5).unwrap();
            }
        }
        text
    };
    let decided = |text: &str, more: &[&str]| {
        let file = desk.file("arms.csv", text);
        let report = desk.json(&shop_with(
            &file,
            &[&["--metric", "won=won:proportion", "--metric", "cost=cost:mean"], more].concat(),
        ));
        report["decisions"][0]["decision"].as_str().unwrap().to_owned()
    };
    let (worse, same, better) = ((2_000, 150), (2_000, 202), (2_000, 290));
    assert_eq!(decided(&arms((2_000, 200), better), &[]), "ship");
    assert_eq!(
        decided(&arms((2_000, 200), better), &["--guardrail", "cost=0.05", "--lower-is-better", "cost"]),
        "ship"
    );
    assert_eq!(decided(&arms((2_000, 200), better), &["--guardrail", "cost=0.000001"]), "keep_running");
    assert_eq!(decided(&arms((2_000, 200), worse), &[]), "kill");
    assert_eq!(decided(&arms((2_000, 200), worse), &["--lower-is-better", "won"]), "ship");
    assert_eq!(decided(&arms((2_000, 200), same), &[]), "keep_running");
    assert_eq!(decided(&arms((2_000, 200), same), &["--mde", ".5"]), "iterate");
    assert_eq!(decided(&arms((2_000, 200), same), &["--method", "obf", "--horizon", "4000"]), "iterate");
    assert_eq!(
        decided(&arms((2_000, 200), same), &["--method", "sequential", "--horizon", "4000"]),
        "keep_running"
    );
    assert_eq!(decided(&arms((2_000, 200), better), &["--method", "bayes", "--prior", "0,0.1"]), "ship");
    assert_eq!(decided(&arms((2_000, 200), (1_000, 145)), &[]), "blocked");
    assert_eq!(decided(&arms((2_000, 200), (1_000, 145)), &["--share", "a=2"]), "ship");
    // A look at a twentieth of the horizon spends next to nothing: what one look would believe is not believed.
    assert_eq!(decided(&arms((2_000, 200), (2_000, 245)), &[]), "ship");
    assert_eq!(
        decided(&arms((2_000, 200), (2_000, 245)), &["--method", "obf", "--horizon", "80000"]),
        "keep_running"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said_by_name() {
    let desk = Desk::new();
    let file = desk.file("shop.csv", &shop());
    let paid = ["--metric", "paid=paid:proportion"];
    desk.refuses("no column 'pay'", &shop_with(&file, &["--metric", "x=pay:mean"]));
    desk.refuses("did you mean", &shop_with(&file, &["--metric", "x=spned:mean"]));
    desk.refuses("no arm 'c'", &[&["analyze", &file, "--arm", "arm", "--control", "c"], &paid[..]].concat());
    desk.refuses(
        "more than 32 values",
        &[&["analyze", &file, "--arm", "user", "--control", "u1"], &paid[..]].concat(),
    );
    desk.refuses("no proportion's value", &shop_with(&file, &["--metric", "x=spend:proportion"]));
    desk.refuses("is no number", &shop_with(&file, &["--metric", "x=country:mean"]));
    desk.refuses("NAME=COLUMN:KIND", &shop_with(&file, &["--metric", "paid"]));
    desk.refuses("--metric", &shop_with(&file, &[]));
    desk.refuses("more than 200 values", &shop_with(&file, &[&paid[..], &["--segment", "user"]].concat()));
    desk.refuses(
        "--max-units",
        &shop_with(&file, &[&paid[..], &["--unit", "user", "--max-units", "50"]].concat()),
    );
    desk.refuses("--horizon", &shop_with(&file, &[&paid[..], &["--method", "obf"]].concat()));
    desk.refuses("--alpha", &shop_with(&file, &[&paid[..], &["--alpha", "1.5"]].concat()));
    desk.refuses("names no --metric", &shop_with(&file, &[&paid[..], &["--guardrail", "cost"]].concat()));
    let one = desk.file("one.csv", "arm,paid\na,1\na,0\n");
    desk.refuses("one arm only", &shop_with(&one, &paid));
    let empty = desk.file("empty.csv", "arm,paid\na,1\na,0\nb,\n");
    desk.refuses("arm 'b' has no unit with a value", &shop_with(&empty, &paid));
    desk.refuses(
        "No such file",
        &{
            let mut arguments = shop_with("nowhere.csv", &paid);
            arguments[1] = "nowhere.csv";
            arguments
        }
        .to_vec(),
    );
    let nothing = desk.file("nothing.csv", "");
    desk.refuses("is empty", &shop_with(&nothing, &paid));
    let infinite = desk.file("infinite.csv", "arm,paid\na,1\nb,inf\n");
    desk.refuses(
        "line 3, column 'paid': 'inf' is infinite",
        &shop_with(&infinite, &["--metric", "x=paid:mean"]),
    );
    let whole = shop();
    let cut = desk.file("cut.csv", &whole[..whole.len() / 2 - 12]);
    desk.refuses("looks cut off", &shop_with(&cut, &paid));
    let parquet = desk.file("file.parquet", "PAR1 and so on");
    desk.refuses("Parquet", &shop_with(&parquet, &paid));
    desk.refuses(
        "control.sum is missing",
        &[
            "analyze",
            "--stats",
            &desk.file("stats.json", r#"{"control": {"type": "proportion", "n": 3}, "treatment": {}}"#),
        ],
    );
    desk.refuses("sum of a proportion", &[
        "analyze", "--stats",
        &desk.file("more.json", r#"{"control": {"type": "proportion", "n": 3, "sum": 4}, "treatment": {"type": "proportion", "n": 3, "sum": 1}}"#),
    ]);
    // A constant metric is an answer that says what is wrong with it.
    let constant = desk.file("constant.csv", "arm,paid\na,1\na,1\nb,1\nb,1\n");
    let report = desk.json(&shop_with(&constant, &paid));
    assert_eq!(report["metrics"][0]["relative"]["error"], "ZERO_NEGATIVE_VARIANCE");
    assert_eq!(report["decisions"][0]["decision"], "keep_running");
}

#[test]
fn units_in_two_arms_are_left_out_and_block() {
    let desk = Desk::new();
    let mut text = shop();
    for user in 0..20 {
        writeln!(text, "u{user},b,false,1,2,0,at").unwrap();
    }
    let file = desk.file("both.csv", &text);
    let report = desk.json(&shop_with(&file, &["--metric", "paid=paid:proportion", "--unit", "user"]));
    assert_eq!(report["arms"][0]["units"], 180);
    assert_eq!(report["decisions"][0]["decision"], "blocked");
    let hygiene = report["hygiene"].to_string();
    assert!(hygiene.contains("20 units (5.00 %) were seen in two arms"), "{hygiene}");
}

#[test]
fn shares_sizes_and_durations() {
    let desk = Desk::new();
    let srm = desk.json(&["srm", "--users", "50000,51300", "--weights", ".5,.5"]);
    close(&srm["p_value"], 4.417_231_085_626e-5, 1e-8);
    assert_eq!(srm["mismatch"], true);
    // An arm of weight 0 is no degree of freedom.
    let zero = desk.json(&["srm", "--users", "50000,51300,0", "--weights", ".5,.5,0"]);
    assert_eq!(zero["p_value"], srm["p_value"]);
    desk.refuses("both need the same number", &["srm", "--users", "1,2", "--weights", "1"]);
    // Cohen (1988), table 2.4.1: d = .5.
    let size = desk.json(&["design", "sample-size", "--mean", "10", "--sd", "2", "--lift", ".1"]);
    close(&size["n1"], 63.765_61, 1e-6);
    let power = desk.json(&["design", "power", "--mean", "10", "--sd", "2", "--lift", ".1", "--units", "64"]);
    close(&power["power"], 0.801_459_6, 1e-6);
    let less = desk.json(&[
        "design",
        "sample-size",
        "--mean",
        "10",
        "--sd",
        "2",
        "--lift",
        ".1",
        "--covariate-correlation",
        ".7",
    ]);
    assert!(less["n1"].as_f64().unwrap() < 34.0, "{less}");
    let days = desk.json(&[
        "design",
        "duration",
        "--units",
        "62000",
        "--daily",
        "4100,3900,4400,4000,3800,4200,4000",
    ]);
    assert!(
        days["interval"][0].as_f64().unwrap() < 15.3 && days["interval"][1].as_f64().unwrap() > 15.3,
        "{days}"
    );
    desk.refuses("between 0 and 1", &["design", "sample-size", "--baseline", ".6", "--lift", ".9"]);
}

#[test]
fn golden_numbers_are_within_their_tolerance() {
    let folder = data_sets().join("golden");
    if !folder.is_dir() {
        println!("skipped: no golden data at {}", folder.display());
        return;
    }
    let desk = Desk::new();
    let all = desk.json(&["analyze", "--golden", folder.to_str().unwrap()]);
    assert_eq!(all["outside"], serde_json::json!([]));
    let compared: u64 =
        all["files"].as_array().unwrap().iter().map(|file| file["compared"].as_u64().unwrap()).sum();
    assert!(compared >= 1_500, "only {compared} numbers compared");
    // A check that cannot fail is a defect.
    desk.file(
        "srm.json",
        r#"{"tolerance": {"rel": 1e-8}, "cases": [{"users": [10, 20], "weights": [1, 1], "p_value": 0.5}]}"#,
    );
    let ended = desk.run(&["analyze", "--golden", desk.folder.path().to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(1));
}

#[test]
fn a_published_experiment() {
    let file = data_sets().join("experiments/cookie_cats.csv");
    if !file.is_file() {
        println!("skipped: no {}", file.display());
        return;
    }
    let desk = Desk::new();
    let file = file.to_str().unwrap();
    let arguments = [
        "analyze",
        file,
        "--arm",
        "version",
        "--control",
        "gate_30",
        "--metric",
        "retention_7=retention_7:proportion",
        "--metric",
        "retention_1=retention_1:proportion",
        "--unit",
        "userid",
    ];
    let report = desk.json(&arguments);
    let line = &report["metrics"][0];
    close(&line["relative"]["estimate"], -0.043_119_034_9, 1e-9);
    close(&line["relative"]["p_value"], 0.001_217_579_428, 1e-8);
    close(&line["absolute"]["p_value"], 0.001_556_342_527, 1e-8);
    close(&report["srm"]["p_value"], 0.008_607_987_811, 1e-8);
    assert_eq!(report["srm"]["mismatch"], false);
    assert_eq!(report["decisions"][0]["decision"], "kill");
    let strict = desk.json(&[&arguments[..], &["--srm-threshold", ".01"]].concat());
    assert_eq!(strict["srm"]["mismatch"], true);
    assert_eq!(strict["decisions"][0]["decision"], "blocked");
}
