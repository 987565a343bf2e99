//! Sizes of source code: lines of code, and how many of them are unsafe.

use anyhow::{Context, Result};
use proc_macro2::{LineColumn, Span};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use syn::Safety;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Lines that hold more than white space and comments; tests are left out.
    pub code: usize,
    /// Those of them inside unsafe blocks, unsafe functions and unsafe impls.
    pub unsafe_code: usize,
}

/// Counts the Rust files below a directory that [`files`] names.
pub fn count<S: AsRef<str>>(dir: &Path, but: &[S]) -> Result<Lines> {
    let mut sum = Lines::default();
    for path in files(dir, but)? {
        let text = fs::read_to_string(&path)?;
        let lines =
            count_text(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        sum.code += lines.code;
        sum.unsafe_code += lines.unsafe_code;
    }
    Ok(sum)
}

/// The Rust files below a directory, without folders and files of the names in `but`, nor those called `tests`, nor
/// modules that are declared for tests alone.
pub fn files<S: AsRef<str>>(dir: &Path, but: &[S]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = dir
        .read_dir()
        .with_context(|| format!("cannot list {}", dir.display()))?;
    let paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    let mut but: Vec<String> = but.iter().map(|it| it.as_ref().into()).collect();
    for path in paths.iter().filter(|path| path.is_file()) {
        but.extend(test_modules(path)?);
    }
    for path in paths {
        let stem = path
            .file_stem()
            .map(|stem| stem.to_string_lossy())
            .unwrap_or_default();
        if stem == "tests" || but.iter().any(|name| *name == stem) {
            continue;
        }
        if path.is_dir() {
            files.extend(self::files(&path, &but)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The modules that a file declares for tests alone.
fn test_modules(path: &Path) -> Result<Vec<String>> {
    if path.extension().is_none_or(|extension| extension != "rs") {
        return Ok(Vec::new());
    }
    let file = syn::parse_file(&fs::read_to_string(path)?)
        .with_context(|| format!("cannot parse {}", path.display()))?;
    let modules = file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(it) if is_test(&it.attrs) => Some(it.ident.to_string()),
        _ => None,
    });
    Ok(modules.collect())
}

fn count_text(text: &str) -> Result<Lines> {
    let file = syn::parse_file(text)?;
    let mut spans = Spans::default();
    spans.visit_file(&file);
    let is_code = |number: &usize| {
        let line = number
            .checked_sub(1)
            .and_then(|index| text.lines().nth(index))
            .unwrap_or("");
        let line = line.trim();
        !line.is_empty() && !line.starts_with("//")
    };
    let lines: Vec<usize> = (1..=text.lines().count())
        .filter(|number| !spans.tests.contains(number))
        .filter(is_code)
        .collect();
    let unsafe_code = lines
        .iter()
        .filter(|number| spans.unsafe_code.contains(number))
        .count();
    Ok(Lines {
        code: lines.len(),
        unsafe_code,
    })
}

/// Line numbers, from 1, of what the visitor found.
#[derive(Default)]
struct Spans {
    tests: BTreeSet<usize>,
    unsafe_code: BTreeSet<usize>,
}

fn lines_of(span: Span) -> std::ops::RangeInclusive<usize> {
    let (LineColumn { line: first, .. }, LineColumn { line: last, .. }) =
        (span.start(), span.end());
    first..=last
}

/// Whether an item with these attributes is there for tests alone, those of a fuzzer included.
pub fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let for_tests = |attribute: &syn::Attribute| match attribute.parse_args::<syn::Meta>() {
            Ok(syn::Meta::Path(path)) => path.is_ident("test") || path.is_ident("fuzzing"),
            Ok(syn::Meta::List(list)) => {
                list.path.is_ident("any") && list.tokens.to_string() == "test , fuzzing"
            }
            _ => false,
        };
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg") && for_tests(attribute)
    })
}

impl<'ast> Visit<'ast> for Spans {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if is_test(attributes) {
            self.tests.extend(lines_of(item.span()));
        } else {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafe_code.extend(lines_of(block.span()));
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if matches!(function.sig.safety, Safety::Unsafe(_)) {
            self.unsafe_code.extend(lines_of(function.block.span()));
        }
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if matches!(function.sig.safety, Safety::Unsafe(_)) {
            self.unsafe_code.extend(lines_of(function.block.span()));
        }
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if item.unsafety.is_some() {
            self.unsafe_code.extend(lines_of(item.span()));
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        // Assembly of a whole routine is nobody's block.
        let name = invocation
            .path
            .segments
            .last()
            .map(|segment| segment.ident.to_string());
        if name.is_some_and(|name| ["global_asm", "naked_asm"].contains(&name.as_str())) {
            self.unsafe_code.extend(lines_of(invocation.span()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_are_no_code() {
        let text = "//! Head.\n\n/// Doc.\nfn a() {\n    // why\n    b();\n}\n\n\
                    #[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        assert_eq!(
            count_text(text).unwrap(),
            Lines {
                code: 3,
                unsafe_code: 0
            }
        );
    }

    #[test]
    fn unsafe_blocks_functions_and_impls_count_by_line() {
        let text = "fn a() {\n    unsafe {\n        b();\n    }\n    c();\n}\n\
                    unsafe impl Send for A {}\n\
                    unsafe fn d() {\n    e();\n}\n";
        assert_eq!(
            count_text(text).unwrap(),
            Lines {
                code: 10,
                unsafe_code: 7
            }
        );
    }
}
