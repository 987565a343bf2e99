//! Rewrites a source file so that each of its checks can be made wrong, one at a time, while it runs.

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Stmt, UnOp};

use super::draft::{Draft, Rewritten, has_mutants};
use crate::source::is_test;

/// Methods whose closure answers whether.
const ASKING: [&str; 10] = [
    "all",
    "any",
    "filter",
    "find",
    "is_none_or",
    "is_some_and",
    "position",
    "retain",
    "skip_while",
    "take_while",
];
/// Methods of a truth value.
const OF_TRUTH: [&str; 2] = ["then", "then_some"];
/// Ways to get a frame of an owner, with their arguments.
const GETTING: [(&str, usize); 3] = [("get", 2), ("get_typed", 3), ("get_table", 4)];
/// Beginnings of statements that keep nobody from anything: what is traced, what asks for bugs, and what waits better.
const NO_CHECKS: [&str; 3] = ["trace::", "lock::check_at_entry()", "hv_machine::relax()"];
/// End of the condition on which something is traced.
const IS_TRACED: &str = "tracer.is_on()";

/// A place where constants let more pass than they should: the text there, and what it becomes, in which each `#` is
/// the number of a mutant more.
pub struct Constant {
    /// End of the file's path.
    pub file: &'static str,
    /// What is there.
    pub from: &'static str,
    /// What comes there.
    pub to: &'static str,
}

/// Rewrites a file; the first of its mutants gets number `first`.
pub fn rewrite(text: &str, name: &str, first: usize, constants: &[Constant]) -> Result<Rewritten> {
    let file = syn::parse_file(text).with_context(|| format!("cannot parse {name}"))?;
    let mut rewriter = Rewriter {
        draft: Draft::new(text, name, first),
        unset: Vec::new(),
    };
    rewriter.visit_file(&file);
    for constant in constants.iter().filter(|it| name.ends_with(it.file)) {
        rewriter.constant(constant)?;
    }
    Ok(rewriter.draft.finish())
}

struct Rewriter<'a> {
    draft: Draft<'a>,
    /// Variables that get their value later.
    unset: Vec<syn::Ident>,
}

/// What may be made of a condition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Whole,
    Needed,
    Enough,
    /// Nothing: it is seen to elsewhere.
    Known,
}

fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(it) if matches!(it.op, BinOp::And(_)) => {
            has_let(&it.left) || has_let(&it.right)
        }
        _ => false,
    }
}

/// Whether an expression is a truth value by its looks.
fn is_condition(expr: &Expr) -> bool {
    match expr {
        Expr::Binary(it) => {
            boundary(&it.op).is_some()
                || matches!(
                    it.op,
                    BinOp::And(_) | BinOp::Or(_) | BinOp::Eq(_) | BinOp::Ne(_)
                )
        }
        Expr::Unary(it) => matches!(it.op, UnOp::Not(_)) && is_condition(&it.expr),
        Expr::Paren(it) => is_condition(&it.expr),
        Expr::Macro(it) => it.mac.path.is_ident("matches"),
        _ => false,
    }
}

fn boundary(op: &BinOp) -> Option<&'static str> {
    match op {
        BinOp::Lt(_) => Some("less"),
        BinOp::Le(_) => Some("most"),
        BinOp::Gt(_) => Some("more"),
        BinOp::Ge(_) => Some("least"),
        _ => None,
    }
}

fn last(expr: &Expr) -> &Expr {
    match expr {
        Expr::Block(block) => match block.block.stmts.last() {
            Some(Stmt::Expr(expr, None)) => last(expr),
            _ => expr,
        },
        _ => expr,
    }
}

impl Rewriter<'_> {
    fn words(&self, expr: &Expr) -> String {
        self.draft.words(expr.span().byte_range())
    }

    /// Whether it is a variable that has no value yet, so that it must get one.
    fn is_unset(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Path(it) if it.path.get_ident().is_some_and(|it| self.unset.contains(it)))
    }

    fn condition(&mut self, expr: &Expr, role: Role) {
        if self.words(expr).ends_with(IS_TRACED) && !is_condition(expr) {
            return;
        }
        match expr {
            Expr::Paren(it) => return self.condition(&it.expr, role),
            Expr::Let(it) => return self.visit_expr(&it.expr),
            Expr::Lit(_) => return,
            // Its value is that of a `return` inside.
            Expr::Loop(_) => return visit::visit_expr(self, expr),
            _ => {}
        }
        let span = expr.span();
        let whole = !has_let(expr);
        if whole {
            let range = span.byte_range();
            let (name, id) = match role {
                Role::Whole => {
                    let id = self.draft.mutant("is true", range.clone());
                    self.draft.mutant("is false", range);
                    ("condition", id)
                }
                Role::Needed => ("needed", self.draft.mutant("is true", range)),
                Role::Enough => ("enough", self.draft.mutant("is false", range)),
                Role::Known => ("", 0),
            };
            if id != 0 {
                self.draft.wrap(
                    span.byte_range(),
                    format!("crate::mutant::{name}({id}, "),
                    ")",
                );
            }
        }
        match expr {
            Expr::Unary(it) if matches!(it.op, UnOp::Not(_)) => {
                self.condition(&it.expr, Role::Known)
            }
            Expr::Binary(it) if matches!(it.op, BinOp::And(_)) => {
                let part = if whole { Role::Needed } else { Role::Whole };
                self.condition(&it.left, if has_let(&it.left) { Role::Known } else { part });
                self.condition(&it.right, part);
            }
            Expr::Binary(it) if matches!(it.op, BinOp::Or(_)) => {
                self.condition(&it.left, Role::Enough);
                self.condition(&it.right, Role::Enough);
            }
            Expr::Binary(it) if boundary(&it.op).is_some() => {
                let name = boundary(&it.op).unwrap_or_default();
                let id = self
                    .draft
                    .mutant("has the other boundary", span.byte_range());
                self.draft.wrap(
                    span.byte_range(),
                    format!("crate::mutant::{name}({id}, "),
                    ")",
                );
                self.draft.replace(it.op.span().byte_range(), ",".into());
                self.visit_expr(&it.left);
                self.visit_expr(&it.right);
            }
            _ if is_condition(expr) => visit::visit_expr(self, expr),
            _ => self.visit_expr(expr),
        }
    }

    fn function(&mut self, name: &syn::Ident, signature: &syn::Signature, block: &syn::Block) {
        let before = self.draft.enter(name);
        let answers = matches!(&signature.output, syn::ReturnType::Type(_, kind)
            if matches!(&**kind, syn::Type::Path(path) if path.path.is_ident("bool")));
        let count = block.stmts.len();
        for (index, stmt) in block.stmts.iter().enumerate() {
            match stmt {
                Stmt::Expr(expr, None) if answers && index + 1 == count => {
                    self.condition(expr, Role::Whole);
                }
                stmt => self.visit_stmt(stmt),
            }
        }
        self.unset.clear();
        self.draft.leave(before, signature);
    }

    fn constant(&mut self, constant: &Constant) -> Result<()> {
        let at = self.draft.text.find(constant.from);
        let at = at.with_context(|| format!("{} has no {}", self.draft.name, constant.from))?;
        let range = at..at + constant.from.len();
        let mut parts = constant.to.split('#');
        let mut text = parts.next().unwrap_or_default().to_owned();
        self.draft.function = "constants".into();
        for part in parts {
            let what = part.split(')').next().unwrap_or_default();
            let what = format!("lets {} pass", what.trim_start_matches(", "));
            let id = self.draft.mutant(&what, range.clone());
            text.push_str(&id.to_string());
            text.push_str(part);
        }
        self.draft.replace(range, text);
        Ok(())
    }
}

impl<'ast> Visit<'ast> for Rewriter<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if has_mutants(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, &item.sig, &item.block);
    }

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig.ident, &item.sig, &item.block);
        }
    }

    fn visit_type(&mut self, _: &'ast syn::Type) {}

    fn visit_local(&mut self, local: &'ast syn::Local) {
        match (&local.pat, &local.init) {
            (syn::Pat::Ident(pat), None) => self.unset.push(pat.ident.clone()),
            _ => visit::visit_local(self, local),
        }
    }

    fn visit_expr_const(&mut self, expr: &'ast syn::ExprConst) {
        // What it calls is no constant any more.
        self.draft.replace(expr.span().byte_range(), "()".into());
    }

    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        if let Stmt::Expr(expr, Some(end)) = stmt
            && match expr {
                Expr::MethodCall(_) | Expr::Call(_) | Expr::Try(_) => true,
                Expr::Assign(it) => !self.is_unset(&it.left),
                Expr::Binary(it) => !is_condition(expr) && it.op.span().byte_range().len() > 1,
                _ => false,
            }
        {
            let range = expr.span().byte_range();
            let words = self.words(expr);
            if NO_CHECKS.iter().any(|it| words.starts_with(it)) {
                return;
            }
            // The compiler wants to know where a lock is held.
            if !words.ends_with(".lock()") && !words.starts_with("drop(l") {
                let id = self.draft.mutant("is left out", range.clone());
                let range = range.start..end.span.byte_range().end;
                let keep = format!("if crate::mutant::keep({id}) {{ ");
                self.draft.wrap(range, keep, " }");
            }
        }
        visit::visit_stmt(self, stmt);
    }

    fn visit_pat_guard(&mut self, guard: &'ast syn::PatGuard) {
        self.condition(&guard.guard, Role::Whole);
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            _ if is_condition(expr) => self.condition(expr, Role::Whole),
            Expr::If(it) => {
                self.condition(&it.cond, Role::Whole);
                self.visit_block(&it.then_branch);
                if let Some((_, other)) = &it.else_branch {
                    self.visit_expr(other);
                }
            }
            Expr::While(it) => {
                // Without its end it hangs.
                match &*it.cond {
                    cond if is_condition(cond) => self.condition(cond, Role::Known),
                    cond => self.visit_expr(cond),
                }
                self.visit_block(&it.body);
            }
            Expr::Match(it) => {
                let asks = it.arms.iter().any(|arm| {
                    matches!(&arm.pat, syn::Pat::Lit(lit) if matches!(lit.lit, syn::Lit::Bool(_)))
                });
                match asks {
                    true => self.condition(&it.expr, Role::Whole),
                    false => self.visit_expr(&it.expr),
                }
                for arm in &it.arms {
                    self.visit_arm(arm);
                }
            }
            Expr::MethodCall(it) => self.visit_expr_method_call(it),
            _ => visit::visit_expr(self, expr),
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let method = call.method.to_string();
        if OF_TRUTH.contains(&&*method) {
            self.condition(&call.receiver, Role::Whole);
        } else {
            self.visit_expr(&call.receiver);
        }
        let receiver = self.words(&call.receiver);
        let gets = GETTING.contains(&(&*method, call.args.len()))
            && (receiver == "self" || receiver.ends_with("memory"));
        if gets {
            let id = self
                .draft
                .mutant("takes anybody's", call.span().byte_range());
            let name = call.method.span().byte_range();
            let open = call.paren_token.span.open().byte_range();
            self.draft
                .replace(name.start..open.end, format!("{method}_mutant({id}, "));
        }
        for argument in &call.args {
            match argument {
                Expr::Closure(closure) if ASKING.contains(&&*method) => {
                    let body = last(&closure.body);
                    if let Expr::Block(block) = &*closure.body {
                        let before = block.block.stmts.len().saturating_sub(1);
                        for stmt in &block.block.stmts[..before] {
                            self.visit_stmt(stmt);
                        }
                    }
                    self.condition(body, Role::Whole);
                }
                argument => self.visit_expr(argument),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> (String, Vec<String>) {
        let it = rewrite(text, "f.rs", 1, &[]).expect("Rust");
        syn::parse_file(&it.text).expect("what comes of Rust is Rust");
        (it.text, it.mutants)
    }

    #[test]
    fn each_part_of_a_condition_can_be_left_out() {
        let (text, mutants) = rewritten("fn f(a: bool, b: bool) { if a && !b { g(a)?; } }");
        assert_eq!(
            mutants,
            [
                "f.rs f: `a && !b` is true",
                "f.rs f: `a && !b` is false",
                "f.rs f: `a` is true",
                "f.rs f: `!b` is true",
                "f.rs f: `g(a)?` is left out",
            ]
        );
        assert_eq!(
            text,
            "fn f(a: bool, b: bool) { if crate::mutant::condition(1, crate::mutant::needed(3, a) && \
             crate::mutant::needed(4, !b)) { if crate::mutant::keep(5) { g(a)?; } } }"
        );
    }

    #[test]
    fn boundaries_owners_and_answers_are_found_and_tests_are_not() {
        let text = "const fn f(&self) -> bool { self.get(m, o).is_some_and(|it| it.n < 5) }
            #[cfg(test)] mod tests { fn f() { if a {} } }";
        let (text, mutants) = rewritten(text);
        assert_eq!(mutants.len(), 6);
        assert!(text.contains("crate::mutant::less(6, it.n , 5)"), "{text}");
        assert!(text.contains("self.get_mutant(3, m, o)"), "{text}");
        assert!(text.starts_with(" fn f"), "no constant any more");
        assert!(text.ends_with("mod tests { fn f() { if a {} } }"));
    }

    #[test]
    fn what_the_compiler_must_know_is_left_alone() {
        let (text, mutants) =
            rewritten("fn f() { const { assert!(g()) }; let a; if b { a = 1; } c = 2; }");
        assert!(text.starts_with("fn f() { (); let a;"), "{text}");
        assert_eq!(mutants[2..], ["f.rs f: `c = 2` is left out"]);
    }

    #[test]
    fn what_keeps_nobody_from_anything_is_left_alone() {
        let (_, mutants) = rewritten(
            "fn f() { if cx.hv.tracer.is_on() { trace::hooking(a == b); } hv_machine::relax(); \
             lock::check_at_entry(); if tracer.is_on() && a { hv.count(1); } }",
        );
        assert_eq!(
            mutants,
            [
                "f.rs f: `tracer.is_on() && a` is true",
                "f.rs f: `tracer.is_on() && a` is false",
                "f.rs f: `a` is true",
                "f.rs f: `hv.count(1)` is left out",
            ]
        );
    }

    #[test]
    fn a_condition_that_binds_is_taken_apart() {
        let (text, _) = rewritten("fn f() { if let Some(a) = b && a > 1 { h(); } }");
        assert!(
            text.contains(
                "let Some(a) = b && crate::mutant::condition(1, crate::mutant::more(3, a , 1))"
            ),
            "{text}"
        );
    }
}
