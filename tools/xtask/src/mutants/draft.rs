//! A source file that is being rewritten: its text, what comes into it, and the mutants that come with it.

use std::collections::BTreeMap;
use std::ops::Range;
use syn::Item;

use crate::source::is_test;

/// A rewritten file.
pub struct Rewritten {
    /// Its text.
    pub text: String,
    /// What each mutant is, in order of their numbers.
    pub mutants: Vec<String>,
}

/// A file on the way to [`Rewritten`].
pub struct Draft<'a> {
    /// What the file was.
    pub text: &'a str,
    /// Its path.
    pub name: &'a str,
    /// The function where the rewriter is.
    pub function: String,
    first: usize,
    mutants: Vec<String>,
    wraps: Vec<(Range<usize>, String, &'static str)>,
    replaced: BTreeMap<usize, (usize, String)>,
    /// How often a mutant of the same words was there before.
    known: BTreeMap<String, usize>,
}

/// Where the rewriter was before it entered a function.
pub struct Outer {
    function: String,
    mutants: usize,
}

impl<'a> Draft<'a> {
    /// A file in which nothing is changed; the first of its mutants gets number `first`.
    pub fn new(text: &'a str, name: &'a str, first: usize) -> Self {
        Self {
            text,
            name,
            function: String::new(),
            first,
            mutants: Vec::new(),
            wraps: Vec::new(),
            replaced: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// What is there, with single spaces.
    pub fn words(&self, range: Range<usize>) -> String {
        let words: Vec<_> = self.text[range].split_whitespace().collect();
        words.join(" ")
    }

    /// Enters a mutant; gives its number.
    pub fn mutant(&mut self, what: &str, range: Range<usize>) -> usize {
        let words = self.words(range);
        let mut key = format!("{} {}: `{words}` {what}", self.name, self.function);
        let before = self.known.entry(key.clone()).or_default();
        *before += 1;
        if *before > 1 {
            key = format!("{key} ({before})");
        }
        self.mutants.push(key);
        self.first + self.mutants.len() - 1
    }

    /// Puts something around what is there; the first of those around the same is the outermost.
    pub fn wrap(&mut self, range: Range<usize>, prefix: String, suffix: &'static str) {
        self.wraps.push((range, prefix, suffix));
    }

    /// Puts something in the place of what is there.
    pub fn replace(&mut self, range: Range<usize>, text: String) {
        self.replaced.insert(range.start, (range.end, text));
    }

    /// Enters a function.
    pub fn enter(&mut self, name: &syn::Ident) -> Outer {
        Outer {
            function: std::mem::replace(&mut self.function, name.to_string()),
            mutants: self.mutants.len(),
        }
    }

    /// Leaves a function, which is no constant any more if it has mutants.
    pub fn leave(&mut self, outer: Outer, signature: &syn::Signature) {
        if let Some(token) = signature.constness
            && self.mutants.len() > outer.mutants
        {
            self.replace(token.span.byte_range(), String::new());
        }
        self.function = outer.function;
    }

    /// The file with all that was put into it.
    pub fn finish(self) -> Rewritten {
        Rewritten {
            text: self.render(),
            mutants: self.mutants,
        }
    }

    fn render(&self) -> String {
        // At one place what ends there comes first, the inner before the outer, and then what begins there.
        let mut events = Vec::new();
        for (index, (range, prefix, suffix)) in self.wraps.iter().enumerate() {
            let length = range.len();
            events.push((range.end, 0, length as isize, -(index as isize), *suffix));
            events.push((
                range.start,
                1,
                -(length as isize),
                index as isize,
                &**prefix,
            ));
        }
        events.sort();
        let mut events = events.into_iter().peekable();
        let mut out = String::new();
        let mut at = 0;
        while at < self.text.len() || events.peek().is_some() {
            while let Some((.., text)) = events.next_if(|event| event.0 == at) {
                out.push_str(text);
            }
            if let Some((end, text)) = self.replaced.get(&at) {
                out.push_str(text);
                at = *end;
                continue;
            }
            let next = events.peek().map_or(self.text.len(), |event| event.0);
            let next = self
                .replaced
                .range(at + 1..)
                .next()
                .map_or(next, |it| next.min(*it.0));
            out.push_str(&self.text[at..next]);
            at = next;
        }
        out
    }
}

/// Whether an item has code that runs outside of tests and is no constant.
pub fn has_mutants(item: &Item) -> bool {
    match item {
        Item::Mod(item) => !is_test(&item.attrs),
        Item::Fn(item) => !is_test(&item.attrs),
        Item::Impl(item) => !is_test(&item.attrs),
        Item::Const(_) | Item::Static(_) | Item::Macro(_) => false,
        _ => true,
    }
}
