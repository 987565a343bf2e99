//! What C headers declare: macros, enumerators, and structs with their fields, read from the
//! preprocessor's output.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::vec::IntoIter;

/// Everything that a set of headers declares, with the header of each thing.
#[derive(Default)]
pub struct Declarations {
    /// Macros without parameters that have a value.
    pub macros: BTreeMap<String, Macro>,
    /// Enumerators.
    pub enumerators: BTreeMap<String, String>,
    /// Structs and unions with a tag, and anonymous ones with a `typedef`, by their C type.
    pub structs: BTreeMap<String, Struct>,
}

/// A macro.
pub struct Macro {
    /// The header that defines it.
    pub header: String,
    /// Its value.
    pub body: String,
}

/// A struct or union.
#[derive(Clone)]
pub struct Struct {
    /// The header that declares it.
    pub header: String,
    /// Its members, in order.
    pub members: Vec<Member>,
}

/// A member of a struct or union.
#[derive(Clone)]
pub enum Member {
    /// One with a name, and its body where its type has no tag.
    Field(String, Option<Body>),
    /// One without a name, whose members are those of the struct around it.
    Anonymous(Body),
}

/// The body of a struct or union without a tag.
#[derive(Clone)]
pub struct Body {
    /// Whether it is a union.
    pub union: bool,
    /// Its members, in order.
    pub members: Vec<Member>,
}

impl Declarations {
    /// Reads the output of `cc -E -dD`. Headers are named by their path below `root`; what is not
    /// below it is ignored.
    pub fn read(text: &str, root: &str) -> Self {
        let mut declarations = Self::default();
        let mut header = None;
        let mut tokens = Vec::new();
        for line in text.lines() {
            if let Some(marker) = line.strip_prefix("# ") {
                header = marker
                    .split('"')
                    .nth(1)
                    .and_then(|path| path.strip_prefix(root))
                    .map(|path| path.trim_start_matches('/').to_string());
            } else if let Some(definition) = line.strip_prefix("#define ") {
                declarations.define(definition, header.as_deref());
            } else if let Some(name) = line.strip_prefix("#undef ") {
                declarations.macros.remove(name.trim());
            } else {
                let from = header.clone().unwrap_or_default();
                tokens.extend(tokenize(line).map(|token| (token, from.clone())));
            }
        }
        Parser {
            tokens: tokens.into_iter().peekable(),
            declarations: &mut declarations,
        }
        .file();
        declarations
    }

    /// A macro, unless it has parameters or no value.
    fn define(&mut self, definition: &str, header: Option<&str>) {
        let end = definition
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(definition.len());
        let (name, body) = definition.split_at(end);
        if let (Some(header), false) = (header, body.starts_with('(') || body.trim().is_empty()) {
            let (header, body) = (header.to_string(), body.trim().to_string());
            self.macros.insert(name.to_string(), Macro { header, body });
        }
    }

    /// The members of a C type: `struct x`, a `typedef`, or a member of one, `struct x.u.arm`.
    pub fn members(&self, c: &str) -> Option<Vec<Member>> {
        let mut path = c.split('.');
        let mut members = self.structs.get(path.next()?)?.members.clone();
        for name in path {
            let name = name.split('[').next()?;
            members = members.into_iter().find_map(|member| match member {
                Member::Field(field, Some(body)) if field == name => Some(body.members),
                _ => None,
            })?;
        }
        Some(members)
    }

    /// The C types of the structs without a tag that are members of others, with their headers.
    pub fn nested(&self) -> BTreeSet<(String, String)> {
        fn walk(path: &str, members: &[Member], found: &mut BTreeSet<String>) {
            for member in members {
                match member {
                    Member::Field(name, Some(body)) => {
                        let path = format!("{path}.{name}");
                        if !body.union {
                            found.insert(path.clone());
                        }
                        walk(&path, &body.members, found);
                    }
                    Member::Field(_, None) => {}
                    Member::Anonymous(body) => walk(path, &body.members, found),
                }
            }
        }
        let mut all = BTreeSet::new();
        for (tag, found) in &self.structs {
            let mut paths = BTreeSet::new();
            walk(tag, &found.members, &mut paths);
            all.extend(paths.into_iter().map(|path| (path, found.header.clone())));
        }
        all
    }
}

/// The tokens of a line of C: names, numbers, strings and single characters.
fn tokenize(line: &str) -> impl Iterator<Item = String> {
    let mut rest = line.trim_start();
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let end = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else if first == '"' {
            rest[1..].find('"').map_or(rest.len(), |end| end + 2)
        } else {
            first.len_utf8()
        };
        let token = rest[..end].to_string();
        rest = rest[end..].trim_start();
        Some(token)
    })
}

/// A reader of declarations, token by token, each with its header.
struct Parser<'a> {
    tokens: Peekable<IntoIter<(String, String)>>,
    declarations: &'a mut Declarations,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<String> {
        self.tokens.next().map(|(token, _)| token)
    }

    fn at(&mut self, token: &str) -> bool {
        self.tokens.peek().is_some_and(|(next, _)| next == token)
    }

    fn is_word(token: &str) -> bool {
        token.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }

    /// Reads the whole input.
    fn file(&mut self) {
        while let Some((token, header)) = self.tokens.next() {
            match token.as_str() {
                "struct" | "union" => {
                    let (_, body) = self.aggregate(&token, &header);
                    // `typedef struct { ... } name;`
                    if let (Some(body), Some((name, _))) = (body, self.tokens.peek().cloned())
                        && Self::is_word(&name)
                    {
                        let members = body.members;
                        self.declarations
                            .structs
                            .insert(name, Struct { header, members });
                    }
                }
                "enum" => self.enumeration(&header),
                // The body of an inline function declares nothing.
                "{" => self.skip("{", "}"),
                _ => {}
            }
        }
    }

    /// Reads a struct or union after its keyword. Gives the body where it has one and no tag; one
    /// with a tag is noted.
    fn aggregate(&mut self, keyword: &str, header: &str) -> (bool, Option<Body>) {
        let mut tag = None;
        while let Some((token, _)) = self.tokens.peek().cloned() {
            if token == "__attribute__" {
                self.next();
                self.next();
                self.skip("(", ")");
            } else if tag.is_none() && Self::is_word(&token) {
                self.next();
                tag = Some(token);
            } else {
                break;
            }
        }
        if !self.at("{") {
            return (false, None);
        }
        self.next();
        let mut members = Vec::new();
        while !self.at("}") {
            self.member(&mut members, header);
        }
        self.next();
        let Some(tag) = tag else {
            return (
                true,
                Some(Body {
                    union: keyword == "union",
                    members,
                }),
            );
        };
        let header = header.to_string();
        self.declarations
            .structs
            .insert(format!("{keyword} {tag}"), Struct { header, members });
        (true, None)
    }

    /// Reads a declaration of members up to its semicolon.
    fn member(&mut self, members: &mut Vec<Member>, header: &str) {
        let (mut body, mut name) = (None, None);
        while let Some(token) = self.next() {
            match token.as_str() {
                "struct" | "union" => body = self.aggregate(&token, header).1,
                "enum" => self.enumeration(header),
                "[" => self.skip("[", "]"),
                "(" => self.skip("(", ")"),
                ":" => drop(self.next()),
                "," | ";" => {
                    match (name.take(), &body) {
                        (Some(name), body) => members.push(Member::Field(name, body.clone())),
                        (None, Some(body)) => members.push(Member::Anonymous(body.clone())),
                        (None, None) => {}
                    }
                    if token == ";" {
                        return;
                    }
                }
                _ if Self::is_word(&token) => name = Some(token),
                _ => {}
            }
        }
    }

    /// Reads an enumeration after its keyword.
    fn enumeration(&mut self, header: &str) {
        if !self.at("{") {
            self.next();
        }
        if !self.at("{") {
            return;
        }
        self.next();
        let mut first = true;
        while let Some(token) = self.next() {
            match token.as_str() {
                "}" => return,
                "," => first = true,
                _ if first && Self::is_word(&token) => {
                    first = false;
                    self.declarations
                        .enumerators
                        .insert(token, header.to_string());
                }
                _ => first = false,
            }
        }
    }

    /// Skips to the token that closes what `open` opened.
    fn skip(&mut self, open: &str, close: &str) {
        let mut depth = 1;
        while let Some(token) = self.next() {
            if token == open {
                depth += 1;
            } else if token == close {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
        }
    }
}
