//! Rewrites a source file so that each error in it can be another one while it runs: where it arises, and wherever it
//! passes on its way to the guest.

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, GenericArgument, PathArguments, ReturnType, Stmt, Type};

use crate::mutants::draft::{Draft, Rewritten, has_mutants};
use crate::source::is_test;

/// Errors that a function may answer.
const ERRORS: [&str; 3] = ["Errno", "Stop", "Status"];
/// Methods that make an error of none, each with its like that takes a closure. A mutant of the error itself says it all.
const MAKING: [(&str, &str); 2] = [("ok_or", "ok_or_else"), ("unwrap_or", "unwrap_or_else")];

/// Rewrites a file; the first of its mutants gets number `first`.
pub fn rewrite(text: &str, name: &str, first: usize) -> Result<Rewritten> {
    let file = syn::parse_file(text).with_context(|| format!("cannot parse {name}"))?;
    let mut rewriter = Rewriter {
        draft: Draft::new(text, name, first),
        fails: false,
        closure: false,
    };
    rewriter.visit_file(&file);
    Ok(rewriter.draft.finish())
}

struct Rewriter<'a> {
    draft: Draft<'a>,
    /// Whether the function answers one of [`ERRORS`].
    fails: bool,
    /// Whether it is in a closure.
    closure: bool,
}

fn fails(output: &ReturnType) -> bool {
    let ReturnType::Type(_, kind) = output else {
        return false;
    };
    let Type::Path(path) = &**kind else {
        return false;
    };
    path.path.segments.last().is_some_and(|last| {
        last.ident == "HypercallResult"
            || last.ident == "Result"
                && matches!(&last.arguments, PathArguments::AngleBracketed(arguments)
                    if matches!(arguments.args.last(), Some(GenericArgument::Type(Type::Path(error)))
                        if ERRORS.iter().any(|it| error.path.is_ident(it))))
    })
}

/// Whether an expression is an error by its name, and in which type.
fn error(expr: &Expr) -> Option<&'static str> {
    let Expr::Path(path) = expr else {
        return None;
    };
    let mut names = path.path.segments.iter().rev();
    let last = names.next()?.ident.to_string();
    let shouts = last.chars().all(|it| !it.is_ascii_lowercase());
    if shouts && names.next().is_some_and(|it| it.ident == "Errno") {
        return Some("errno");
    }
    (last.starts_with("GNTST_") && last != "GNTST_OKAY").then_some("status")
}

/// Whether a call makes its error here, where it is a mutant already.
fn is_made_here(expr: &Expr) -> bool {
    match expr {
        Expr::Call(call) => matches!(&*call.func, Expr::Path(path)
            if ["Ok", "Err", "Some"].iter().any(|name| path.path.is_ident(name))),
        Expr::MethodCall(call) => {
            MAKING.iter().any(|(name, _)| call.method == name)
                || call.method == "map_err"
                    && matches!(call.args.first(), Some(Expr::Closure(it)) if error(&it.body).is_some())
        }
        _ => false,
    }
}

impl Rewriter<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let before = self.draft.enter(&signature.ident);
        let outer = std::mem::replace(&mut self.fails, fails(&signature.output));
        if self.fails {
            self.end(block);
        }
        self.visit_block(block);
        self.fails = outer;
        self.draft.leave(before, signature);
    }

    /// What answers another error than it should.
    fn answer(&mut self, expr: &Expr) {
        if !is_made_here(expr) {
            let range = expr.span().byte_range();
            let id = self.draft.mutant("gives another error", range.clone());
            let prefix = format!("crate::mutant::answer({id}, ");
            self.draft.wrap(range, prefix, ")");
        }
    }

    fn end(&mut self, block: &syn::Block) {
        if let Some(Stmt::Expr(expr, None)) = block.stmts.last() {
            self.value(expr);
        }
    }

    /// Looks for the calls whose answer is the function's.
    fn value(&mut self, expr: &Expr) {
        match expr {
            Expr::Call(_) | Expr::MethodCall(_) => self.answer(expr),
            Expr::Block(it) => self.end(&it.block),
            Expr::If(it) => {
                self.end(&it.then_branch);
                if let Some((_, other)) = &it.else_branch {
                    self.value(other);
                }
            }
            Expr::Match(it) => it.arms.iter().for_each(|arm| self.value(&arm.body)),
            Expr::Paren(it) => self.value(&it.expr),
            _ => {}
        }
    }
}

impl<'ast> Visit<'ast> for Rewriter<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if has_mutants(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig, &item.block);
        }
    }

    fn visit_type(&mut self, _: &'ast Type) {}

    fn visit_expr(&mut self, expr: &'ast Expr) {
        if let Some(name) = error(expr) {
            let range = expr.span().byte_range();
            let id = self.draft.mutant("is another error", range.clone());
            let prefix = format!("crate::mutant::{name}({id}, ");
            return self.draft.wrap(range, prefix, ")");
        }
        match expr {
            // What asks for an error gives none.
            Expr::Binary(it) if matches!(it.op, BinOp::Eq(_) | BinOp::Ne(_)) => return,
            Expr::Try(it) if self.fails || self.closure => self.answer(&it.expr),
            Expr::Return(it) if self.fails && !self.closure => {
                if let Some(expr) = &it.expr {
                    self.value(expr);
                }
            }
            Expr::MethodCall(call) => {
                let lazy = MAKING.iter().find(|(name, _)| call.method == name);
                if let (Some((_, lazy)), Some(argument)) = (lazy, call.args.first())
                    && error(argument).is_some()
                {
                    // So that the mutant is reached only where the error is.
                    let name = call.method.span().byte_range();
                    self.draft.replace(name, (*lazy).into());
                    let argument = argument.span().byte_range();
                    self.draft.wrap(argument, "|| ".into(), "");
                }
            }
            Expr::Closure(_) => {
                // What it answers is known at run time. Its `return` may give anything else.
                let outer = std::mem::replace(&mut self.closure, true);
                visit::visit_expr(self, expr);
                self.closure = outer;
                return;
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> (String, Vec<String>) {
        let it = rewrite(text, "f.rs", 1).expect("Rust");
        syn::parse_file(&it.text).expect("what comes of Rust is Rust");
        (it.text, it.mutants)
    }

    #[test]
    fn an_error_is_another_one_where_it_arises_and_only_there() {
        let (text, mutants) = rewritten(
            "const A: E = Errno::EIO; fn f() { if a == Errno::EIO { g(Errno::EPERM, GNTST_OKAY) } \
             match b { Errno::EIO => c.ok_or(GNTST_EAGAIN), _ => Errno::from(d) } }",
        );
        assert_eq!(
            mutants,
            [
                "f.rs f: `Errno::EPERM` is another error",
                "f.rs f: `GNTST_EAGAIN` is another error",
            ]
        );
        assert!(text.contains("g(crate::mutant::errno(1, Errno::EPERM), GNTST_OKAY)"));
        assert!(
            text.contains("Errno::EIO => c.ok_or_else(|| crate::mutant::status(2, GNTST_EAGAIN))")
        );
    }

    #[test]
    fn an_error_is_another_one_where_it_passes() {
        let (text, mutants) = rewritten(
            "fn f() -> Result<u8, Errno> { let a = g()?; let b = h.ok_or(Errno::EIO)?; \
             if a { return k(b); } match b { 1 => Ok(2), _ => l(m) } } fn o() -> Option<u8> { p()?; q(|| r()?) }",
        );
        assert_eq!(
            mutants,
            [
                "f.rs f: `l(m)` gives another error",
                "f.rs f: `g()` gives another error",
                "f.rs f: `Errno::EIO` is another error",
                "f.rs f: `k(b)` gives another error",
                "f.rs o: `r()` gives another error",
            ]
        );
        assert!(text.contains("let a = crate::mutant::answer(2, g())?;"));
        assert!(text.contains("_ => crate::mutant::answer(1, l(m))"));
    }
}
