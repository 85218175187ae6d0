//! Test only: the tests that the table of promises in `ARCHITECTURE.md` names are there. It says nothing of what they show.
//!
//! A name in the table is words between `::`, `/` or a blank, which the path of a test has in that order: folders, file, modules,
//! function. `…` in a word stands for anything, `*` for any word; a name that begins with `…` is in the module of the name before
//! it. A name with a capital is a predicate of `launch/promises.rs`, and `make …` is a target.

use std::collections::BTreeSet;
use std::path::Path;

use crate::launch::promises::OF_A_DECISION;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Every test below a folder, as its path in words.
fn tests_below(folder: &Path, found: &mut BTreeSet<Vec<String>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let place = path.strip_prefix(ROOT).unwrap().with_extension("");
            let place: Vec<String> = place.iter().map(|word| word.to_str().unwrap().to_owned()).collect();
            found.extend(tests_in(&read(&path)).into_iter().map(|test| [place.clone(), test].concat()));
        }
    }
}

/// The tests of a file, each with the module in the file that it is in.
fn tests_in(source: &str) -> Vec<Vec<String>> {
    let (mut found, mut module, mut is_test) = (Vec::new(), None, false);
    for line in source.lines() {
        let words = line.trim_start();
        is_test |= words.starts_with("#[test]") || words.starts_with("#[tokio::test");
        let name = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
        if let Some(rest) = words.strip_prefix("mod ").filter(|_| line.ends_with('{')) {
            module = name(rest);
        } else if line == "}" {
            module = None;
        } else if let Some(rest) = words.strip_prefix("async fn ").or(words.strip_prefix("fn ")).filter(|_| is_test) {
            found.push(module.clone().into_iter().chain(name(rest)).collect());
            is_test = false;
        }
    }
    found
}

/// The names in each row, in whole.
fn named(page: &str) -> Vec<String> {
    let table = page.split("| promise | tests |").nth(1).unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let mut names = Vec::new();
    for row in rows {
        let mut module = String::new();
        for name in row.split('`').skip(1).step_by(2) {
            let whole = if name.starts_with('…') { format!("{module}{name}") } else { name.to_owned() };
            module = whole.rfind("::").map_or_else(String::new, |end| whole[..end + 2].to_owned());
            names.push(whole);
        }
    }
    names
}

/// Whether a word of a name is the word of a path.
fn is_word(named: &str, word: &str) -> bool {
    let Some((head, rest)) = named.split_once('…') else { return named == "*" || named == word };
    let Some(mut left) = word.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('…').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(tail)
}

fn is_there(name: &str, tests: &BTreeSet<Vec<String>>, makefile: &str) -> bool {
    if let Some(target) = name.strip_prefix("make ") {
        return makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    }
    if name.starts_with(char::is_uppercase) {
        return OF_A_DECISION.iter().any(|(promise, _)| *promise == name);
    }
    let words: Vec<&str> = name.split(['/', ' ', ':']).filter(|word| !word.is_empty()).collect();
    tests.iter().any(|test| {
        let mut path = test.iter();
        words.iter().all(|named| path.any(|word| is_word(named, word)))
    })
}

#[test]
fn every_test_that_the_table_of_promises_names_is_there() {
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests"] {
        tests_below(&Path::new(ROOT).join(folder), &mut tests);
    }
    let (names, makefile) =
        (named(&read(Path::new(ROOT).join("ARCHITECTURE.md"))), read(Path::new(ROOT).join("Makefile")));
    assert!(names.len() > 40 && tests.len() > 500, "{} names and {} tests were read", names.len(), tests.len());
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name, &tests, &makefile)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names tests that are not there: {missing:#?}");
}

#[test]
fn a_name_is_found_whole_shortened_and_by_its_folder_and_a_wrong_one_is_not() {
    let source = "#[test]\nfn a_weight_waits() {}\nmod crashes {\n    #[test]\n    fn it_comes_back() {\n    }\n}\nfn help() {}\n";
    let place = ["tests", "launches", "people"].map(str::to_owned).to_vec();
    let tests: BTreeSet<_> = tests_in(source).into_iter().map(|test| [place.clone(), test].concat()).collect();
    let page = "| promise | tests |\n|---|---|\n| 1 | `people::a_weight…`, `…waits` and `make unit` |\n\n`none`";
    assert_eq!(named(page), ["people::a_weight…", "people::…waits", "make unit"]);
    for (name, there) in [
        ("people::a_weight_waits", true),
        ("people::a_…waits", true),
        ("people::…weight…", true),
        ("people::…weight", false),
        ("people::a_weight", false),
        ("people::help", false),
        ("crashes::a_weight_waits", false),
        ("people::crashes", true),
        ("people::crashes::it_comes_back", true),
        ("launches people::*", true),
        ("launches/people", true),
        ("people launches", false),
        ("decisions", false),
        ("PodsWithinShare", true),
        ("PodsBeyondShare", false),
        ("make unit", true),
        ("make none", false),
    ] {
        assert_eq!(is_there(name, &tests, "unit: ## tests\n"), there, "{name}");
    }
}
