//! The types and constants of this crate against Xen's own headers (Debian's package `libxen-dev`).
//!
//! A C program prints size, alignment and offsets of every struct and the value of every constant
//! that this crate has. The other way round, every macro, enumerator, struct and field of the
//! headers must be in this crate, or among the exclusions, each of which has its reason.

mod declarations;
mod exclusions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use declarations::{Declarations, Member};
use hypercall_abi::arch_x86::{self, TrapInfo, XEN_EMULATE_PREFIX};
use hypercall_abi::io::blkif::BLKIF_ENTRY_SIZE;
use hypercall_abi::io::netif::{NETIF_RX_ENTRY_SIZE, NETIF_TX_ENTRY_SIZE};
use hypercall_abi::io::ring::ring_entries;
use hypercall_abi::io::xs_wire::XSD_ERRORS;
use hypercall_abi::layout::{HEADERS, Struct, Text};
use hypercall_abi::memory;
use hypercall_abi::types::Mfn;

/// Where libxen-dev has the headers.
const ROOT: &str = "/usr/include/xen";

/// The C compiler with what the headers need to show all that they have, reading a program from its
/// input.
fn cc(options: &[&str], program: &str) -> String {
    assert!(
        Path::new(ROOT).join("xen.h").exists(),
        "Xen's headers are missing: install libxen-dev"
    );
    let mut child = Command::new("cc")
        .args(["-D__XEN_TOOLS__", "-x", "c"])
        .args(options)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("no C compiler: install gcc");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let program = program.to_string();
    let writer = std::thread::spawn(move || stdin.write_all(program.as_bytes()));
    let output = child.wait_with_output().expect("cc ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cc: {errors}");
    writer
        .join()
        .expect("the writer ends")
        .expect("cc reads the program");
    String::from_utf8(output.stdout).expect("cc writes UTF-8")
}

/// What a C program prints.
fn run(program: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("xen-headers-{}-{number}", std::process::id());
    let binary = std::env::temp_dir().join(name);
    cc(
        &["-w", "-o", binary.to_str().expect("the path is UTF-8")],
        program,
    );
    let output = Command::new(&binary).output();
    std::fs::remove_file(&binary).expect("the program can be removed");
    String::from_utf8(output.expect("the program runs").stdout).expect("it writes UTF-8")
}

/// The lines that include every header this crate covers.
fn includes() -> String {
    let mut text = String::from(
        "#include <errno.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <string.h>\n",
    );
    for header in HEADERS.iter().flat_map(|header| header.files) {
        writeln!(text, "#include <xen/{header}>").expect("a string takes it");
    }
    // A ring without entries is the start of every ring.
    text += "struct nothing {};\nDEFINE_RING_TYPES(nothing, struct nothing, struct nothing);\n";
    text
}

/// What the headers declare.
fn declarations() -> Declarations {
    Declarations::read(&cc(&["-E", "-dD"], &includes()), ROOT)
}

/// The Rust name of a C constant.
fn rust_name(c: &str) -> String {
    c.trim_start_matches("__").to_uppercase()
}

/// The C names of a constant or text of the headers `files`.
fn c_names(found: &Declarations, files: &[&str], name: &str, c: Option<&str>) -> Vec<String> {
    if let Some(c) = c {
        return vec![c.to_string()];
    }
    let macros = found
        .macros
        .iter()
        .map(|(name, found)| (name, &found.header));
    macros
        .chain(&found.enumerators)
        .filter(|(c, header)| files.contains(&header.as_str()) && rust_name(c) == name)
        .map(|(c, _)| c.clone())
        .collect()
}

/// A type of the tables as a C program writes it.
fn c_type(c: &str) -> String {
    match c.split_once('.') {
        Some((tag, path)) => format!("__typeof__((({tag} *)0)->{path})"),
        None => c.to_string(),
    }
}

/// Whether a field is padding that has no name in C.
fn is_padding(members: &[String], name: &str) -> bool {
    name.starts_with("_pad") && !members.iter().any(|member| member == name)
}

/// The names of all members, those of anonymous structs and unions included.
fn names(members: &[Member]) -> Vec<String> {
    let mut all = Vec::new();
    for member in members {
        match member {
            Member::Field(name, _) => all.push(name.clone()),
            Member::Anonymous(body) => all.extend(names(&body.members)),
        }
    }
    all
}

/// The C name of a field; none for padding.
fn field_name(members: &[String], name: &str, c: Option<&'static str>) -> Option<String> {
    match c {
        Some("") => None,
        Some(c) => Some(c.to_string()),
        None if is_padding(members, name) => None,
        None => Some(name.strip_suffix('_').unwrap_or(name).to_string()),
    }
}

/// The names of the members of a struct of this crate, in C.
fn members_of(found: &Declarations, item: &Struct) -> Vec<Member> {
    found
        .members(item.c)
        .unwrap_or_else(|| panic!("{}: no {} in the headers", item.name, item.c))
}

/// Fails with all complaints, if there are any.
fn report(complaints: &[String]) {
    assert!(
        complaints.is_empty(),
        "{} differences:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

#[test]
fn layouts_and_values_are_those_of_the_headers() {
    let found = declarations();
    let mut program = includes() + "#include <stdio.h>\nint main(void) {\n";
    let mut expected = BTreeMap::new();
    let mut complaints = Vec::new();
    let mut print = |label: String, format: &str, arguments: String, value: String| {
        writeln!(program, "printf(\"{label}\\t{format}\\n\", {arguments});").expect("it is taken");
        expected.insert(label, value);
    };
    for header in HEADERS {
        for item in header.structs {
            let members = names(&members_of(&found, item));
            let c = c_type(item.c);
            print(
                item.name.into(),
                "%zu %zu",
                format!("sizeof({c}), _Alignof({c})"),
                format!("{} {}", item.size, item.align),
            );
            for field in item.fields {
                let Some(name) = field_name(&members, field.name, field.c) else {
                    continue;
                };
                let arguments = format!("offsetof({c}, {name}), sizeof((({c} *)0)->{name})");
                let label = format!("{}::{}", item.name, field.name);
                print(
                    label,
                    "%zu %zu",
                    arguments,
                    format!("{} {}", field.offset, field.size),
                );
            }
        }
        for constant in header.constants {
            let candidates = c_names(&found, header.files, constant.name, constant.c);
            if candidates.is_empty() {
                complaints.push(format!("{}: not in {:?}", constant.name, header.files));
            }
            for c in candidates {
                let arguments = format!(
                    "({c}) < 0 ? \"-\" : \"\", ({c}) < 0 ? \
                     -(unsigned long long)({c}) : (unsigned long long)({c})"
                );
                print(c, "%s%llu", arguments, constant.value.to_string());
            }
        }
        for Text { name, c, value } in header.texts {
            let candidates = c_names(&found, header.files, name, *c);
            if candidates.is_empty() {
                complaints.push(format!("{name}: not in {:?}", header.files));
            }
            for c in candidates {
                let arguments = format!("(const char *){c}");
                print(c, "%s", arguments, (*value).to_string());
            }
        }
    }
    program += "}\n";
    let mut printed = 0;
    for line in run(&program).lines() {
        let (label, c) = line.split_once('\t').expect("a line has a label");
        let rust = &expected[label];
        if rust != c {
            complaints.push(format!("{label}: {rust} here, {c} in C"));
        }
        printed += 1;
    }
    assert!(
        printed >= expected.len(),
        "the program stopped after {printed} lines"
    );
    report(&complaints);
}

#[test]
fn every_name_of_the_headers_is_covered_or_excluded() {
    let found = declarations();
    let files: BTreeSet<&str> = HEADERS
        .iter()
        .flat_map(|header| header.files)
        .copied()
        .collect();
    let mut used = BTreeSet::new();
    let mut complaints = Vec::new();
    let mut excluded = |kind: &str, name: &str| {
        let fitting: Vec<_> = exclusions::NAMES
            .iter()
            .flat_map(|all| all.fitting(name))
            .collect();
        if fitting.is_empty() {
            complaints.push(format!("{kind} {name} is neither covered nor excluded"));
        }
        used.extend(fitting);
    };

    let constants: BTreeSet<String> = HEADERS
        .iter()
        .flat_map(|header| {
            let constants = header
                .constants
                .iter()
                .map(|constant| (constant.name, constant.c));
            let texts = header.texts.iter().map(|text| (text.name, text.c));
            constants.chain(texts)
        })
        .map(|(name, c)| c.map_or_else(|| name.to_string(), rust_name))
        .collect();
    let macros = found
        .macros
        .iter()
        .map(|(name, found)| (name, &found.header));
    for (name, header) in macros.chain(&found.enumerators) {
        // `_X` is the number of the bit `X`.
        let bit = name
            .strip_prefix('_')
            .is_some_and(|mask| constants.contains(&rust_name(mask)));
        if files.contains(header.as_str()) && !constants.contains(&rust_name(name)) && !bit {
            excluded("constant", name);
        }
    }

    let structs: BTreeMap<&str, &Struct> = HEADERS
        .iter()
        .flat_map(|header| header.structs)
        .map(|item| (item.c, item))
        .collect();
    let tagged = found
        .structs
        .iter()
        .map(|(c, found)| (c.clone(), found.header.clone()));
    for (c, header) in tagged.chain(found.nested()) {
        let covered = structs.keys().any(|item| item.replace("[0]", "") == c);
        if files.contains(header.as_str()) && !covered {
            excluded("type", &c);
        }
    }

    for item in structs.values() {
        let members = members_of(&found, item);
        let all = names(&members);
        let fields: BTreeSet<String> = item
            .fields
            .iter()
            .filter_map(|field| field_name(&all, field.name, field.c))
            .map(|name| name.split('.').next().unwrap_or_default().to_string())
            .collect();
        for member in &members {
            let covered = match member {
                Member::Field(name, _) => fields.contains(name),
                // The arms of a union without a name are one place under several names.
                Member::Anonymous(body) => names(&body.members).iter().any(|n| fields.contains(n)),
            };
            if !covered {
                let names = match member {
                    Member::Field(name, _) => vec![name.clone()],
                    Member::Anonymous(body) => names(&body.members),
                };
                excluded("field", &format!("{}.{}", item.c, names.join("|")));
            }
        }
    }

    for exclusion in exclusions::NAMES {
        for pattern in exclusion
            .patterns()
            .iter()
            .filter(|pattern| !used.contains(*pattern))
        {
            complaints.push(format!("no name fits {pattern}, left out as {exclusion:?}"));
        }
    }
    report(&complaints);
}

#[test]
fn the_number_of_a_bit_is_that_of_its_flag() {
    let found = declarations();
    let values: BTreeMap<String, i128> = HEADERS
        .iter()
        .flat_map(|header| header.constants)
        .map(|constant| {
            (
                constant
                    .c
                    .map_or_else(|| constant.name.to_string(), rust_name),
                constant.value,
            )
        })
        .collect();
    let complaints: Vec<String> = found
        .macros
        .iter()
        .filter_map(|(name, found)| {
            let value = *values.get(&rust_name(name.strip_prefix('_')?))?;
            let bit: u32 = found.body.trim_matches(['(', ')']).parse().ok()?;
            (value != 1 << bit).then(|| format!("{name} is {bit}, the flag {value:#x}"))
        })
        .collect();
    report(&complaints);
}

#[test]
fn every_installed_header_is_covered_or_excluded() {
    let covered: BTreeSet<&str> = HEADERS
        .iter()
        .flat_map(|header| header.files)
        .copied()
        .collect();
    let mut complaints = Vec::new();
    let mut folders = vec![Path::new(ROOT).to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|_| panic!("Xen's headers are missing: install libxen-dev"));
        for entry in entries {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path
                .strip_prefix(ROOT)
                .expect("it is below")
                .to_string_lossy()
                .into_owned();
            let excluded = exclusions::HEADERS
                .iter()
                .any(|exclusion| exclusion.fitting(&name).next().is_some());
            if !excluded && !covered.contains(name.as_str()) {
                complaints.push(format!("header {name} is neither covered nor excluded"));
            }
        }
    }
    report(&complaints);
}

#[test]
fn errors_of_the_store_are_those_of_the_headers() {
    let program = includes()
        + "#include <stdio.h>\nint main(void) {\n\
           for (int i = 0; i < sizeof(xsd_errors) / sizeof(*xsd_errors); i++)\n\
           printf(\"%d %s\\n\", xsd_errors[i].errnum, xsd_errors[i].errstring);\n}\n";
    let expected: String = XSD_ERRORS
        .iter()
        .map(|(errno, name)| format!("{} {name}\n", errno.number()))
        .collect();
    assert_eq!(run(&program), expected);
}

#[test]
fn the_emulation_prefix_is_that_of_the_headers() {
    let program = includes()
        + "#include <stdio.h>\nint main(void) {\nconst unsigned char *code;\n\
           __asm__(\"leaq 1f(%%rip), %0; jmp 2f; 1:\" XEN_CPUID \"; 2:\" : \"=r\"(code));\n\
           for (int i = 0; i < 7; i++) printf(\"%d \", code[i]);\n}\n";
    let cpuid = [XEN_EMULATE_PREFIX.as_slice(), &[0x0f, 0xa2]].concat();
    let expected: String = cpuid.iter().map(|byte| format!("{byte} ")).collect();
    assert_eq!(run(&program), expected);
}

#[test]
fn functions_agree_with_the_macros_of_the_headers() {
    let (set, unset) = (
        TrapInfo::default().with_dpl(3).with_masked_events(true),
        TrapInfo::default(),
    );
    let checks = [
        (
            "XENMEMF_address_bits(40)",
            u64::from(memory::memf_address_bits(40)),
        ),
        (
            "XENMEMF_get_address_bits(0x10328)",
            u64::from(memory::memf_get_address_bits(0x1_0328)),
        ),
        ("XENMEMF_node(2)", u64::from(memory::memf_node(2))),
        (
            "XENMEMF_get_node(XENMEMF_node(2))",
            u64::from(memory::memf_get_node(0x300)),
        ),
        ("XENMEMF_get_node(0)", u64::from(memory::memf_get_node(0))),
        (
            "XENMEMF_exact_node(254)",
            u64::from(memory::memf_exact_node(254)),
        ),
        ("XEN_CPUID_LEAF(3)", u64::from(arch_x86::cpuid_leaf(3))),
        (
            "xen_pfn_to_cr3(0x123456)",
            arch_x86::mfn_to_cr3(Mfn(0x12_3456)),
        ),
        (
            "xen_cr3_to_pfn(0x123456789000)",
            arch_x86::cr3_to_mfn(0x1234_5678_9000).0,
        ),
        ("set.flags", u64::from(set.flags)),
        ("TI_GET_DPL(&set)", u64::from(set.dpl())),
        ("!!TI_GET_IF(&set)", u64::from(set.masks_events())),
        ("!!TI_GET_IF(&unset)", u64::from(unset.masks_events())),
        (
            "__CONST_RING_SIZE(blkif, 4096)",
            ring_entries(4096, BLKIF_ENTRY_SIZE) as u64,
        ),
        (
            "__CONST_RING_SIZE(netif_tx, 4096)",
            ring_entries(4096, NETIF_TX_ENTRY_SIZE) as u64,
        ),
        (
            "__CONST_RING_SIZE(netif_rx, 16384)",
            ring_entries(16384, NETIF_RX_ENTRY_SIZE) as u64,
        ),
    ];
    let mut program = includes() + "#include <stdio.h>\nint main(void) {\n";
    program += "struct trap_info set = {0}, unset = {0}; TI_SET_DPL(&set, 3); TI_SET_IF(&set, 7);";
    for (c, _) in checks {
        writeln!(
            program,
            "printf(\"%s=%llu\\n\", \"{c}\", (unsigned long long)({c}));"
        )
        .expect("it is taken");
    }
    program += "}\n";
    let expected: String = checks
        .iter()
        .map(|(c, value)| format!("{c}={value}\n"))
        .collect();
    assert_eq!(run(&program), expected);
}
