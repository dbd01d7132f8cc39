//! The rules of the house that a program can check. Each test names every place that breaks its rule.
#![allow(clippy::unwrap_used, reason = "a rule that cannot be checked is broken")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[test]
fn decisions_are_pure_and_effects_live_in_io() {
    let forbidden = [
        "tokio",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "Instant::now",
        "SystemTime",
        "async fn",
        ".await",
        "rand::rng()",
        "rand::random",
        "OsRng",
        "std::thread",
        "Mutex",
    ];
    let mut found = Vec::new();
    for file in product_sources().filter(is_pure) {
        found.extend(lines_with(&file, &forbidden));
    }
    assert_none(&found);
}

#[test]
fn the_replicated_state_has_only_ordered_maps_and_no_clock() {
    let forbidden = [
        "HashMap",
        "HashSet",
        "Instant",
        "SystemTime",
        "rand::",
        "f64",
        "usize::MAX",
    ];
    let mut found = Vec::new();
    for file in product_sources().filter(is_replicated) {
        found.extend(lines_with(&file, &forbidden));
    }
    assert_none(&found);
}

#[test]
fn the_clock_is_read_in_io_alone_and_said_so_once() {
    let mut found = Vec::new();
    for file in product_sources() {
        let may = file.path.ends_with("io/mod.rs");
        if !may {
            found.extend(lines_with(&file, &["disallowed_methods"]));
        }
    }
    assert_none(&found);
}

#[test]
fn the_machine_is_reached_through_the_environment_alone() {
    let forbidden = [
        "tokio::net",
        "tokio::signal",
        "SystemTime::now",
        "rand::random",
        "spawn_blocking",
        "thread::Builder",
    ];
    let mut found = Vec::new();
    for file in product_sources() {
        let may = file.path.contains("io/environment/");
        let is_test = file.path.ends_with("tests.rs") || file.path.contains("/tests/");
        if !may && !is_test {
            let product = file.before_tests();
            let lines = product
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let hits = lines.filter(|line| forbidden.iter().any(|word| line.contains(word)));
            found.extend(hits.map(|line| format!("{}: {}", file.path, line.trim())));
        }
    }
    assert_none(&found);
}

#[test]
fn every_module_with_children_opens_by_saying_what_it_owns() {
    let fronts = sources().filter(|file| file.name() == "mod.rs" || file.name() == "lib.rs");
    let silent = fronts.filter(|file| !file.text.starts_with("//! "));
    assert_none(&silent.map(|file| file.path).collect::<Vec<_>>());
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let long = sources().filter(|file| file.before_tests().lines().count() > LINES_MAX);
    let found: Vec<_> = long
        .map(|file| format!("{}: {}", file.path, file.before_tests().lines().count()))
        .collect();
    assert_none(&found);
}

/// What decides is somewhere else, so little is left: a file with a loop over several sources drives one machine, and any
/// other holds one thing.
#[test]
fn drivers_are_short_and_so_is_whatever_else_has_effects() {
    let mut found = Vec::new();
    for file in product_sources().filter(|file| file.path.contains("/src/io/")) {
        let code = file.before_tests();
        let is_driver = code.contains("loop {") && code.contains("select!");
        let (lines, max) = (
            code.lines().count(),
            if is_driver { DRIVER_LINES_MAX } else { IO_LINES_MAX },
        );
        if lines > max {
            found.push(format!("{}: {lines} lines, at most {max}", file.path));
        }
    }
    assert_none(&found);
}

#[test]
fn no_file_is_named_after_nothing_in_particular() {
    let vague = [
        "utils.rs",
        "util.rs",
        "common.rs",
        "helpers.rs",
        "types.rs",
        "misc.rs",
    ];
    let found = sources().filter(|file| vague.contains(&file.name()));
    assert_none(&found.map(|file| file.path).collect::<Vec<_>>());
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut missing = Vec::new();
    for document in files().filter(is_document) {
        let quoted = document.text.split('`').skip(1).step_by(2);
        let paths = quoted.filter(|word| word.contains("/src/"));
        let absent = paths.filter(|path| !root().join(path).exists());
        missing.extend(absent.map(|path| format!("{}: {path}", document.path)));
    }
    assert_none(&missing);
}

/// Documents by their path, sections after the path (`docs/spec/ews.md §1.8`), requirements by their number. In a
/// document a section without a path is its own.
#[test]
fn everything_that_is_cited_can_be_looked_up() {
    let texts = Citable::read();
    let mut found = Vec::new();
    for file in files().filter(|file| !file.path.ends_with("tidy.rs")) {
        for (number, line) in file.text.lines().enumerate() {
            let dead = texts.dead_references(&file, line).into_iter();
            found.extend(dead.map(|reference| format!("{}:{}: {reference}", file.path, number + 1)));
        }
    }
    assert_none(&found);
}

#[test]
fn crates_point_only_where_the_architecture_says() {
    let foundation = [
        "certificate",
        "cluster",
        "golden",
        "planted",
        "raft",
        "runtime",
        "sip",
    ];
    let allowed: [(&str, &[&str]); 13] = [
        ("shared/golden", &[]),
        ("shared/planted", &[]),
        ("shared/certificate", &[]),
        ("shared/sip", &[]),
        ("shared/cluster", &["golden", "planted", "sip"]),
        ("shared/runtime", &["certificate", "cluster", "planted", "sip"]),
        ("shared/raft", &["cluster", "golden", "planted", "runtime"]),
        ("node/xml", &[]),
        ("node/exchange", &["certificate", "cluster", "planted", "xml"]),
        ("lb", &foundation),
        ("node", &[&foundation[..], &["exchange", "xml"]].concat()),
        ("cli", &["certificate", "cluster", "lb", "node", "runtime"]),
        (
            "tests",
            &[&foundation[..], &["exchange", "lb", "node", "xml"]].concat(),
        ),
    ];
    let mut found = Vec::new();
    for (name, may) in allowed {
        let manifest = manifest(name);
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(toml::Value::as_table) else {
                continue;
            };
            for (dependency, value) in dependencies {
                let ours = dependency.strip_prefix("tandem-");
                if ours.is_some_and(|dependency| !may.contains(&dependency)) {
                    found.push(format!("{name} depends on {dependency}"));
                }
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    found.push(format!("{name} decides the version of {dependency} by itself"));
                }
            }
        }
        if PURE_CRATES.contains(&name) {
            let runtimes = RUNTIMES.iter().filter(|runtime| depends_on(&manifest, runtime));
            found.extend(runtimes.map(|runtime| format!("{name} is pure and depends on {runtime}")));
        }
        if manifest["lints"]["workspace"].as_bool() != Some(true) {
            found.push(format!("{name} has lints of its own"));
        }
    }
    assert_none(&found);
}

#[test]
fn nothing_is_left_to_be_done() {
    let words = ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "dbg!"];
    let mut found = Vec::new();
    for file in sources().filter(|file| !file.path.ends_with("tidy.rs")) {
        found.extend(lines_with(&file, &words));
    }
    assert_none(&found);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let places = ["work", "tmp", "home", "root"].map(|folder| format!("/{folder}/"));
    let mut found = Vec::new();
    for file in files().filter(|file| !file.path.ends_with("tidy.rs") && file.path != "Cargo.lock") {
        found.extend(lines_with(&file, &places.each_ref().map(String::as_str)));
    }
    assert_none(&found);
}

/// Every key that a program reads stands, explained or commented out, in the reference configuration.
#[test]
fn the_reference_configuration_knows_every_key() {
    let mut found = Vec::new();
    for (binary, reference) in [
        ("lb", "deploy/config/lb.toml"),
        ("node", "deploy/config/node.toml"),
    ] {
        let known = keys_in_reference(&read(reference));
        let read_here = product_sources().filter(|file| {
            file.path.starts_with(&format!("{binary}/src/config"))
                || file.path.starts_with("shared/runtime/src/config/")
        });
        for file in read_here {
            for key in keys_that_are_read(file.before_tests()) {
                if !known.contains(&key) {
                    found.push(format!("{reference} lacks {key} ({})", file.path));
                }
            }
        }
    }
    assert_none(&found);
}

/// A text file of the repository, by its path from the root.
struct File {
    path: String,
    text: String,
}

impl File {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    /// Tests may do what they like. They stand at the end; a declaration of tests in a file of their own does not.
    fn before_tests(&self) -> &str {
        let mut starts = self.text.match_indices("#[cfg(test)]").map(|(start, _)| start);
        let opens_a_block = |start: &usize| {
            let mut lines = self.text[*start..].lines();
            lines
                .find(|line| line.starts_with("mod "))
                .is_some_and(|line| line.ends_with('{'))
        };
        let end = starts.find(opens_a_block).unwrap_or(self.text.len());
        &self.text[..end]
    }
}

/// What comments, configuration and documents may cite.
struct Citable {
    /// The sections of each document, by its path.
    sections: BTreeMap<String, BTreeSet<String>>,
    requirements: BTreeSet<String>,
    /// What stands before the dash in the numbers of requirements.
    areas: BTreeSet<String>,
}

impl Citable {
    fn read() -> Self {
        let documents = files().filter(is_document);
        let requirements = requirements_defined_in(&read("docs/requirements.md"));
        Self {
            sections: documents.map(|file| (file.path, sections(&file.text))).collect(),
            areas: requirements
                .iter()
                .filter_map(|number| Some(number.split_once('-')?.0.to_owned()))
                .collect(),
            requirements,
        }
    }

    fn dead_references(&self, file: &File, line: &str) -> Vec<String> {
        let of_this_file = is_document(file).then_some(file.path.as_str());
        // Whose sections the next ones are. Those of standards are not looked up.
        let mut cited = of_this_file;
        let mut dead = Vec::new();
        for word in line.split(|letter: char| !letter.is_alphanumeric() && !"§./-_".contains(letter)) {
            let word = word.trim_matches('.');
            match word {
                "" | "and" | "or" | "to" => {}
                _ if word.starts_with('§') => {
                    if cited.is_some_and(|document| !self.has_section(document, word)) {
                        dead.push(format!("{word} of {}", cited.unwrap_or_default()));
                    }
                }
                _ if word.ends_with(".md") => {
                    cited = Some(word);
                    if !self.sections.contains_key(word) {
                        dead.push(word.to_owned());
                    }
                }
                "spec" | "Spec" | "architecture" | "Architecture" => cited = Some("no document"),
                "guide" | "guides" if !file.path.starts_with("docs/") => dead.push(word.to_owned()),
                _ if is_standard(word) => cited = None,
                _ if self.is_undefined_requirement(word) => dead.push(word.to_owned()),
                _ => cited = of_this_file,
            }
        }
        dead
    }

    fn has_section(&self, document: &str, section: &str) -> bool {
        let number = section.trim_start_matches('§');
        self.sections
            .get(document)
            .is_some_and(|sections| sections.contains(number))
    }

    fn is_undefined_requirement(&self, word: &str) -> bool {
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        word.split_once('-')
            .is_some_and(|(area, digits)| self.areas.contains(area) && is_number(digits))
            && !self.requirements.contains(word)
    }
}

/// Numbers of headings, and of the points that a section lists: `§9.4` is the fourth of `## 9`.
fn sections(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut section = String::new();
    for line in text.lines() {
        let number = line
            .trim_start_matches('#')
            .trim_start()
            .split(' ')
            .next()
            .unwrap();
        let is_number = number.starts_with(|first: char| first.is_ascii_digit());
        if is_number && line.starts_with('#') {
            number.trim_end_matches('.').clone_into(&mut section);
            found.insert(section.clone());
        } else if is_number && number.ends_with('.') && !section.is_empty() {
            found.insert(format!("{section}.{}", number.trim_end_matches('.')));
        }
    }
    found
}

/// Each has an anchor, so that links lead to it: `<a id="cal-6"></a>CAL-6`.
fn requirements_defined_in(text: &str) -> BTreeSet<String> {
    let after_anchors = text.split("\"></a>").skip(1);
    after_anchors
        .map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect()
}

/// The last word of its name: `RFC 3261`, `ECMA-269`, `MS-NLMP`, `XML 1.0`, `X.690`.
fn is_standard(word: &str) -> bool {
    let is_version = word
        .chars()
        .all(|letter| letter.is_ascii_digit() || letter == '.');
    is_version || word.starts_with("ECMA-") || word.starts_with("MS-") || word.starts_with("X.")
}

fn is_document(file: &File) -> bool {
    file.path.ends_with(".md")
}

/// Neither an effect nor the parts that put effects together.
fn is_pure(file: &File) -> bool {
    let effects = file.path.contains("/io/")
        || ["main.rs", "app.rs"].contains(&file.name())
        || file.path.contains("/src/app/");
    !effects
}

/// What `apply` is made of. The witness' decisions stand beside it and are not replicated.
fn is_replicated(file: &File) -> bool {
    // What a member decides for itself is not replicated.
    let is_local = ["authority.rs", "health.rs", "witness.rs"].contains(&file.name());
    file.path.starts_with("shared/cluster/src/") && !is_local
}

/// Declared as `#[cfg(test)] mod name;` by the module above.
fn is_for_tests(path: &str) -> bool {
    if path.ends_with("tests.rs") {
        return true;
    }
    let path = Path::new(path);
    // What stands under a module for tests is for tests as well.
    path.ancestors().any(|module| {
        let (Some(name), Some(parent)) = (module.file_stem(), module.parent()) else {
            return false;
        };
        let declaration = format!("#[cfg(test)]\nmod {};", name.display());
        std::fs::read_to_string(root().join(parent).join("mod.rs"))
            .is_ok_and(|text| text.contains(&declaration))
    })
}

/// In quotation marks it is a peer's word and none of ours: `"SystemTime"` is a type of Exchange's properties.
fn lines_with(file: &File, words: &[&str]) -> Vec<String> {
    let lines = file.before_tests().lines().enumerate();
    let code = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.flat_map(|(number, line)| {
        let broken = words
            .iter()
            .filter(move |word| line.replace(&format!("\"{word}"), "").contains(**word));
        broken.map(move |word| format!("{}:{}: {word}", file.path, number + 1))
    })
    .collect()
}

/// First arguments of the calls that take a key out of a section.
fn keys_that_are_read(code: &str) -> BTreeSet<String> {
    const READERS: [&str; 24] = [
        "text",
        "text_or",
        "optional_text",
        "parsed",
        "optional_parsed",
        "optional_number",
        "optional_path",
        "number",
        "number_or",
        "flag",
        "flag_or",
        "address",
        "address_or",
        "optional_address",
        "parsed_list",
        "duration_or",
        "path",
        "section",
        "sections",
        "optional_section",
        "choice",
        "choice_or",
        "required_choice",
        "list",
    ];
    let mut keys = BTreeSet::new();
    for reader in READERS {
        let call = format!(".{reader}(\"");
        for rest in code.split(&call).skip(1) {
            keys.insert(rest.split('"').next().unwrap().to_owned());
        }
    }
    keys
}

/// Keys and tables, whether commented out or not.
fn keys_in_reference(text: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.trim_start_matches('#').trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_start_matches('[');
            let table = table.split(']').next().unwrap();
            keys.extend(table.split('.').map(str::to_owned));
        } else if let Some((key, _)) = line.split_once('=') {
            keys.insert(key.trim().to_owned());
        }
    }
    keys
}

fn sources() -> impl Iterator<Item = File> {
    files().filter(|file| file.path.ends_with(".rs"))
}

/// The crates that run in production, without what is compiled for tests only.
fn product_sources() -> impl Iterator<Item = File> {
    sources().filter(|file| {
        let is_product = ["cli/", "lb/", "node/", "shared/"]
            .iter()
            .any(|start| file.path.starts_with(start));
        is_product && file.path.contains("/src/") && !is_for_tests(&file.path)
    })
}

/// Every text file, build output and hidden directories aside.
fn files() -> impl Iterator<Item = File> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    paths.sort();
    paths.into_iter().filter_map(|path| {
        let text = std::fs::read_to_string(&path).ok()?;
        let path = path.strip_prefix(root()).unwrap().to_str()?.to_owned();
        Some(File { path, text })
    })
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap_or_default();
        if path.is_dir() {
            if name != "target" && (name == ".cargo" || name == ".ci" || !name.starts_with('.')) {
                walk(&path, paths);
            }
        } else if name != ".git" {
            paths.push(path);
        }
    }
}

fn manifest(name: &str) -> toml::Table {
    toml::from_str(&read(&format!("{name}/Cargo.toml"))).unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

fn depends_on(manifest: &toml::Table, name: &str) -> bool {
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    dependencies.is_some_and(|dependencies| dependencies.contains_key(name))
}

const LINES_MAX: usize = 600;
const DRIVER_LINES_MAX: usize = 250;
const IO_LINES_MAX: usize = 300;

/// What decides stands in crates that could not wait for anything if they wanted to.
const PURE_CRATES: [&str; 6] = [
    "shared/certificate",
    "shared/cluster",
    "shared/planted",
    "shared/sip",
    "node/exchange",
    "node/xml",
];

const RUNTIMES: [&str; 5] = ["tokio", "hyper", "futures", "tandem-runtime", "tandem-raft"];
