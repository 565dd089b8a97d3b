//! The shape of a source: where items begin and end, which attributes stand over them, how long functions are.

use std::ops::RangeInclusive;

use crate::lexer::Token;

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    /// From the line of `fn` to that of the closing brace.
    pub lines: usize,
}

/// Every function with a body; those inside others count for themselves as well.
pub fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(at + 1) else { break };
        let is_named = name.text.starts_with(|first: char| first.is_alphabetic() || first == '_');
        if token.text == "fn"
            && is_named
            && let Some(open) = body_of(tokens, at)
        {
            let end = tokens[closing(tokens, open)].line;
            found.push(Function { name: name.text.clone(), line: token.line, lines: end - token.line + 1 });
        }
    }
    found
}

/// The lines of every item or statement that stands under an attribute that `matches`, the attribute included. An
/// inner attribute (`#![…]`) covers the whole file.
pub fn spans_under(tokens: &[Token], matches: fn(&[Token]) -> bool) -> Vec<RangeInclusive<usize>> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(open) = (token.text == "#").then(|| attribute_open(tokens, at)).flatten() else { continue };
        let close = closing(tokens, open);
        if !matches(&tokens[open + 1..close]) {
            continue;
        }
        let is_inner = open == at + 2;
        let (first, last) = match is_inner {
            true => (1, usize::MAX),
            false => (token.line, end_of_item(tokens, close + 1)),
        };
        found.push(first..=last);
    }
    found
}

/// Whether an attribute's contents say that what follows is compiled for tests only.
pub fn marks_a_test(contents: &[Token]) -> bool {
    let words: Vec<&str> = contents.iter().map(|token| token.text.as_str()).collect();
    matches!(words.as_slice(), ["test"] | ["cfg", "(", "test", ")"] | ["cfg", "(", "all", "(", "test", ..])
}

/// The index of the bracket that closes the one at `open`; the last token if there is none.
pub fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

/// The `[` of the attribute that begins with the `#` at `at`.
fn attribute_open(tokens: &[Token], at: usize) -> Option<usize> {
    let bang = usize::from(tokens.get(at + 1)?.text == "!");
    (tokens.get(at + 1 + bang)?.text == "[").then_some(at + 1 + bang)
}

/// The `{` of the body of the function at `at`; `None` for a declaration.
fn body_of(tokens: &[Token], at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        match tokens.get(at)?.text.as_str() {
            "(" | "[" => at = closing(tokens, at) + 1,
            "{" => return Some(at),
            ";" | "}" => return None,
            _ => at += 1,
        }
    }
}

/// The line where the item, statement, field or variant that begins at `at` ends.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    let mut at = at;
    while tokens.get(at).is_some_and(|token| token.text == "#")
        && let Some(open) = attribute_open(tokens, at)
    {
        at = closing(tokens, open) + 1;
    }
    let keyword =
        tokens[at.min(tokens.len())..].iter().take(8).map(|token| token.text.as_str()).find(|text| {
            matches!(
                *text,
                "let"
                    | "fn"
                    | "mod"
                    | "impl"
                    | "struct"
                    | "enum"
                    | "trait"
                    | "type"
                    | "static"
                    | "const"
                    | "use"
            )
        });
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                at = closing(tokens, at);
                if keyword != Some("let") && keyword != Some("use") {
                    return tokens[at].line;
                }
            }
            "(" | "[" => at = closing(tokens, at),
            ";" | "}" | ")" => return token.line,
            "," if keyword.is_none() => return token.line,
            _ => {}
        }
        at += 1;
    }
    tokens.last().map_or(1, |token| token.line)
}

#[cfg(test)]
mod tests {
    use super::{functions, marks_a_test, spans_under};
    use crate::lexer::{mask, tokens};

    fn check(source: &str, expected: &[(&str, usize, usize)]) {
        let found = functions(&tokens(&mask(source).code));
        let found: Vec<_> =
            found.iter().map(|function| (function.name.as_str(), function.line, function.lines)).collect();
        assert_eq!(found, expected, "source: {source}");
    }

    #[test]
    fn functions_end_at_their_brace() {
        check("fn a() {\n}\nfn b() { if x { y } }", &[("a", 1, 2), ("b", 3, 1)]);
        check("fn a(x: [u8; { 3 }]) -> u8\nwhere\n    T: X,\n{\n    \"}\";\n}", &[("a", 1, 6)]);
        check("fn outer() {\n    fn inner() {\n    }\n}", &[("outer", 1, 4), ("inner", 2, 2)]);
    }

    #[test]
    fn declarations_and_pointers_are_no_functions() {
        check("trait T { fn a(&self); fn b(&self) {} }", &[("b", 1, 1)]);
        check("type F = fn(u8) -> u8; struct S { f: fn() }", &[]);
    }

    #[test]
    fn spans_cover_the_item_and_no_more() {
        let spans = |source: &str| spans_under(&tokens(&mask(source).code), marks_a_test);
        assert_eq!(spans("#[cfg(test)]\nmod tests {\n}\nfn a() {}"), [1..=3]);
        assert_eq!(spans("#[cfg(test)]\n#[path = \"x\"]\nmod tests;\nfn a() {}"), [1..=3]);
        assert_eq!(spans("#[cfg(test)]\nuse a::{\n  b, c};\nfn a() {}"), [1..=3]);
        assert_eq!(spans("fn f() {\n#[cfg(test)]\nlet x = match y {\n_ => 1 }.z;\nw();\n}"), [2..=4]);
        assert_eq!(spans("enum E {\n#[cfg(test)]\nA,\nB,\n}"), [2..=3]);
        assert_eq!(spans("#![cfg(test)]\nfn a() {}"), [1..=usize::MAX]);
        assert!(spans("#[cfg(not(test))]\nfn a() {}").is_empty());
    }
}
