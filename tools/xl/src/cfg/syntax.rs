//! The grammar of xl.cfg.
//!
//! Statements are `key = value` or `key += value`, ended by a newline, `;` or the end of the text.
//! A value is a string in single or double quotes, a number, or a list of values in brackets, in
//! which newlines and comments may stand around each value. A comment goes from `#` to the end of
//! the line.

use std::fmt;

use winnow::ascii::line_ending;
use winnow::combinator::{alt, cut_err, eof, opt, peek};
use winnow::error::{ContextError, ErrMode, StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location, Stream};
use winnow::token::{any, one_of, take_till, take_while};

/// How deep lists may be nested; no key needs more than two, and the parser recurses.
const MAX_DEPTH: usize = 16;

/// A place in a text, both numbers from 1 on. Columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    fn at(text: &str, offset: usize) -> Position {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }
}

/// A value. Strings and numbers are one kind: what is needed of them depends on the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string, its escapes resolved, or a number as it was written.
    Atom(String),
    /// A list.
    List(Vec<Value>),
}

impl fmt::Display for Value {
    /// As it could be written in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Atom(text) => {
                f.write_str("\"")?;
                for character in text.chars() {
                    match character {
                        '"' => f.write_str("\\\"")?,
                        '\\' => f.write_str("\\\\")?,
                        '\n' => f.write_str("\\n")?,
                        '\r' => f.write_str("\\r")?,
                        '\t' => f.write_str("\\t")?,
                        '\0'..='\x1f' | '\x7f' => write!(f, "\\x{:02x}", u32::from(character))?,
                        _ => write!(f, "{character}")?,
                    }
                }
                f.write_str("\"")
            }
            Value::List(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The key.
    pub key: String,
    /// Where it stands.
    pub key_at: Position,
    /// `+=` rather than `=`.
    pub adds: bool,
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub value_at: Position,
}

/// The text breaks the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct SyntaxError {
    /// Where.
    pub at: Position,
    /// What could stand there.
    pub expected: String,
    /// What does.
    pub found: String,
}

/// Reads a whole text.
///
/// # Errors
/// [`SyntaxError`] at the first place that breaks the grammar.
pub fn parse(text: &str) -> Result<Vec<Assignment>, SyntaxError> {
    let statements = document.parse(LocatingSlice::new(text)).map_err(|error| {
        let offset = error.offset();
        let mut expected: Vec<&str> = Vec::new();
        for context in error.inner().context() {
            if let StrContext::Expected(StrContextValue::Description(what)) = context
                && !expected.contains(what)
            {
                expected.push(what);
            }
        }
        let expected = if expected.is_empty() {
            vec!["a setting"]
        } else {
            expected
        };
        SyntaxError {
            at: Position::at(text, offset),
            expected: expected.join(" or "),
            found: describe(text.get(offset..).unwrap_or_default()),
        }
    })?;
    let place = |offset| Position::at(text, offset);
    Ok(statements
        .into_iter()
        .map(|raw| Assignment {
            key: raw.key,
            key_at: place(raw.key_at),
            adds: raw.adds,
            value: raw.value,
            value_at: place(raw.value_at),
        })
        .collect())
}

/// What stands at the beginning of `rest`, in words.
fn describe(rest: &str) -> String {
    let Some(first) = rest.chars().next() else {
        return "the end of the text".into();
    };
    if rest.starts_with('\n') || rest.starts_with("\r\n") {
        return "the end of the line".into();
    }
    if first.is_alphanumeric() || first == '_' {
        let word: String = rest
            .chars()
            .take_while(|&next| next.is_alphanumeric() || matches!(next, '_' | '-' | '.' | '/'))
            .take(32)
            .collect();
        return format!("'{word}'");
    }
    match first {
        '\0'..=' ' | '\x7f'.. => format!("'{}'", first.escape_debug()),
        _ => format!("'{first}'"),
    }
}

struct RawAssignment {
    key: String,
    key_at: usize,
    adds: bool,
    value: Value,
    value_at: usize,
}

type Input<'a> = LocatingSlice<&'a str>;

fn expected(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

/// An error at the present place that no other alternative can mend.
fn fail<T>(what: &'static str) -> ModalResult<T> {
    let mut error = ContextError::new();
    error.push(expected(what));
    Err(ErrMode::Cut(error))
}

fn document(input: &mut Input<'_>) -> ModalResult<Vec<RawAssignment>> {
    let mut statements = Vec::new();
    loop {
        spaces(input)?;
        if opt(eof).parse_next(input)?.is_some() {
            return Ok(statements);
        }
        if opt(statement_end).parse_next(input)?.is_none() {
            statements.push(assignment(input)?);
            spaces(input)?;
            cut_err(statement_end)
                .context(expected("the end of the line"))
                .context(expected("';'"))
                .parse_next(input)?;
        }
    }
}

fn spaces(input: &mut Input<'_>) -> ModalResult<()> {
    take_while(0.., (' ', '\t')).void().parse_next(input)
}

fn comment(input: &mut Input<'_>) -> ModalResult<()> {
    ('#', take_till(0.., '\n')).void().parse_next(input)
}

fn statement_end(input: &mut Input<'_>) -> ModalResult<()> {
    let end_of_line = (opt(comment), alt((line_ending.void(), eof.void()))).void();
    alt((';'.void(), end_of_line)).parse_next(input)
}

/// Spaces, newlines and comments inside a list.
fn list_space(input: &mut Input<'_>) -> ModalResult<()> {
    loop {
        take_while(0.., (' ', '\t', '\r', '\n'))
            .void()
            .parse_next(input)?;
        if opt(comment).parse_next(input)?.is_none() {
            return Ok(());
        }
    }
}

fn assignment(input: &mut Input<'_>) -> ModalResult<RawAssignment> {
    let key_at = input.current_token_start();
    let word = (
        one_of('a'..='z'),
        take_while(0.., ('.', '_', '0'..='9', 'a'..='z')),
    )
        .take();
    let key = cut_err(word)
        .context(expected("a key"))
        .parse_next(input)?
        .to_owned();
    spaces(input)?;
    let adds = cut_err(alt(("+=".value(true), '='.value(false))))
        .context(expected("'='"))
        .context(expected("'+='"))
        .parse_next(input)?;
    spaces(input)?;
    let value_at = input.current_token_start();
    let value = value(input, 0)?;
    Ok(RawAssignment {
        key,
        key_at,
        adds,
        value,
        value_at,
    })
}

fn value(input: &mut Input<'_>, depth: usize) -> ModalResult<Value> {
    match opt(peek(any)).parse_next(input)? {
        Some('"' | '\'') => string(input).map(Value::Atom),
        Some('0'..='9') => {
            let mut digits = take_while(1.., ('0'..='9', 'a'..='f', 'x'));
            let number = digits.parse_next(input)?.to_owned();
            // A word that only begins like a number lacks its quotes.
            if opt(peek(one_of(('g'..='z', 'A'..='Z', '_', '.', '-', ':'))))
                .parse_next(input)?
                .is_some()
            {
                return fail("the end of the number; a string needs quotes");
            }
            Ok(Value::Atom(number))
        }
        Some('[') if depth < MAX_DEPTH => list(input, depth),
        Some('[') => fail("no list nested deeper than 16"),
        _ => fail("a value: a string in quotes, a number, or a list in brackets"),
    }
}

fn list(input: &mut Input<'_>, depth: usize) -> ModalResult<Value> {
    '['.parse_next(input)?;
    let mut values = Vec::new();
    loop {
        list_space(input)?;
        if opt(']').parse_next(input)?.is_some() {
            return Ok(Value::List(values));
        }
        if opt(eof).parse_next(input)?.is_some() {
            return fail("']'");
        }
        values.push(value(input, depth + 1)?);
        list_space(input)?;
        if opt(',').parse_next(input)?.is_none() {
            cut_err(']')
                .context(expected("','"))
                .context(expected("']'"))
                .parse_next(input)?;
            return Ok(Value::List(values));
        }
    }
}

fn string(input: &mut Input<'_>) -> ModalResult<String> {
    let quote = one_of(('"', '\'')).parse_next(input)?;
    let mut text = String::new();
    loop {
        let before = input.checkpoint();
        match opt(any).parse_next(input)? {
            Some('\\') => {
                let Some(character) = escape(input)? else {
                    input.reset(&before);
                    return fail(
                        "an escape: one of \\\\ \\\" \\' \\a \\b \\f \\n \\r \\t \\v \\xHH \\OOO",
                    );
                };
                text.push(character);
            }
            Some(character) if character == quote => return Ok(text),
            Some('\n') | None => {
                input.reset(&before);
                return fail(if quote == '"' {
                    "a closing \""
                } else {
                    "a closing '"
                });
            }
            Some(character) => text.push(character),
        }
    }
}

/// What follows a backslash. `\xHH` and `\OOO` name the characters up to U+00FF; a zero has no
/// place in a string that is to be a name, a path or a command line.
fn escape(input: &mut Input<'_>) -> ModalResult<Option<char>> {
    let Some(first) = opt(any).parse_next(input)? else {
        return Ok(None);
    };
    let code = match first {
        '\\' | '"' | '\'' => return Ok(Some(first)),
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => 0x0a,
        'r' => 0x0d,
        't' => 0x09,
        'v' => 0x0b,
        'x' => {
            let mut digits =
                take_while::<_, _, ContextError>(1..=2, |c: char| c.is_ascii_hexdigit());
            match digits.parse_next(input) {
                Ok(digits) => u32::from_str_radix(digits, 16).unwrap_or(0),
                Err(_) => 0,
            }
        }
        '0'..='7' => {
            let more = take_while(0..=2, '0'..='7').parse_next(input)?;
            u32::from_str_radix(&format!("{first}{more}"), 8).unwrap_or(0)
        }
        _ => 0,
    };
    Ok(char::from_u32(code).filter(|_| (1..=0xff).contains(&code)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{MAX_DEPTH, Position, Value, parse};

    fn atom(text: &str) -> Value {
        Value::Atom(text.into())
    }

    fn one(text: &str) -> Value {
        let mut statements = parse(text).unwrap();
        assert_eq!(statements.len(), 1, "{statements:?}");
        statements.remove(0).value
    }

    fn error(text: &str) -> (usize, usize, String) {
        let error = parse(text).unwrap_err();
        (error.at.line, error.at.column, error.to_string())
    }

    #[test]
    fn both_quotes_make_strings_and_each_may_hold_the_other() {
        assert_eq!(one(r#"a = "it's""#), atom("it's"));
        assert_eq!(one(r#"a = 'say "hi"'"#), atom(r#"say "hi""#));
        assert_eq!(one(r#"a = "x\"y\\z\'""#), atom(r#"x"y\z'"#));
    }

    #[test]
    fn escapes_name_characters() {
        assert_eq!(one(r"a = '\a\b\f\n\r\t\v'"), atom("\x07\x08\x0c\n\r\t\x0b"));
        assert_eq!(one(r"a = '\x41\101\x7e'"), atom("AA~"));
    }

    #[test]
    fn numbers_are_kept_as_they_were_written() {
        for number in ["0", "512", "0x1f", "0755"] {
            assert_eq!(one(&format!("memory={number}")), atom(number));
        }
    }

    #[test]
    fn statements_end_at_newlines_and_semicolons_and_the_end() {
        let text = "a=1;b=2\n;;\n\n  c='3' ; # comment\r\nd=4 # comment at the end";
        let keys: Vec<String> = parse(text).unwrap().into_iter().map(|it| it.key).collect();
        assert_eq!(keys, ["a", "b", "c", "d"]);
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("# only a comment").unwrap(), []);
    }

    #[test]
    fn lists_go_over_lines_with_comments_and_a_last_comma() {
        let text = "disk = [ # first\n  'a', # second\n\n 1,\n [ 'x', ], []\n ,\n]\nname='n'";
        let statements = parse(text).unwrap();
        let inner = Value::List(vec![atom("x")]);
        let list = Value::List(vec![atom("a"), atom("1"), inner, Value::List(vec![])]);
        assert_eq!(statements[0].value, list);
        assert_eq!(statements[1].key_at, Position { line: 8, column: 1 });
    }

    #[test]
    fn errors_tell_line_column_and_what_was_expected() {
        let value = "a value: a string in quotes, a number, or a list in brackets";
        assert_eq!(
            error("a=1\nname = hello\n"),
            (2, 8, format!("expected {value}, found 'hello'"))
        );
        assert_eq!(
            error("a="),
            (1, 3, format!("expected {value}, found the end of the text"))
        );
        assert_eq!(
            error("a=\n1"),
            (1, 3, format!("expected {value}, found the end of the line"))
        );
        assert_eq!(
            error("a 1"),
            (1, 3, "expected '=' or '+=', found '1'".into())
        );
        assert_eq!(
            error("Name='x'"),
            (1, 1, "expected a key, found 'Name'".into())
        );
        let end = "expected the end of the line or ';', found 'b'";
        assert_eq!(error("a='x' b='y'"), (1, 7, end.into()));
        assert_eq!(
            error("\n\na=['x' 'y']"),
            (3, 8, "expected ',' or ']', found '''".into())
        );
        assert_eq!(
            error("a=['x',"),
            (1, 8, "expected ']', found the end of the text".into())
        );
        let closing = "expected a closing \", found the end of the line";
        assert_eq!(error("a=\"x\nb=1"), (1, 5, closing.into()));
        assert_eq!(error(r"a='\q'").1, 4);
        assert_eq!(error(r"a='\0'").1, 4);
        assert_eq!(error(r"a='\777'").1, 4);
        assert_eq!(error("memory=64mb").1, 10);
    }

    #[test]
    fn a_comma_without_a_value_is_an_error() {
        assert_eq!(error("a=[,]").1, 4);
        assert_eq!(error("a=['x',,]").1, 8);
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_crash() {
        let deep = format!("a={}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&deep).is_err());
        let allowed = format!("a={}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        parse(&allowed).unwrap();
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            "[ -~äλ\n\t\r\u{1}-\u{1f}]{0,12}".prop_map(Value::Atom),
            "[0-9]{1,6}".prop_map(Value::Atom),
        ];
        leaf.prop_recursive(4, 20, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(Value::List)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_it_was(
            settings in proptest::collection::vec(("[a-z][a-z0-9_.]{0,8}", any::<bool>(), values()), 0..6),
            newline in proptest::sample::select(vec!["\n", ";", " # c\n", "\r\n"]),
        ) {
            let mut text = String::new();
            for (key, adds, value) in &settings {
                let sign = if *adds { "+=" } else { "=" };
                text.push_str(&format!("{key} {sign} {value}{newline}"));
            }
            let read: Vec<_> = parse(&text)
                .unwrap()
                .into_iter()
                .map(|it| (it.key, it.adds, it.value))
                .collect();
            prop_assert_eq!(read, settings);
        }

        #[test]
        fn arbitrary_text_is_read_or_refused(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn text_of_the_grammars_characters_is_read_or_refused(
            text in r#"[a\[\]=+,;#'"\\x0-9 \n]{0,40}"#
        ) {
            if let Err(error) = parse(&text) {
                prop_assert!(error.at.line <= text.matches('\n').count() + 1);
            }
        }
    }
}
