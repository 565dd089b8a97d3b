"""Rules whose actions make and read whole directories."""

# The scripts make their directory: REAPI creates the parents of outputs only.
def _declared(ctx, script, inputs = []):
    directory = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [directory],
        inputs = inputs,
        command = script,
        arguments = [directory.path],
        mnemonic = "MakeTree",
    )
    return [DefaultInfo(files = depset([directory]))]

def _tree_impl(ctx):
    return _declared(ctx, """
set -eu
mkdir -p "$1"
cd "$1"
mkdir -p a/b/c d
for i in 1 2 3 4 5 6 7 8 9; do echo "file $i" > "a/$i.txt"; done
echo deep > a/b/c/deep.txt
cp a/1.txt d/same-as-1.txt
: > d/empty.txt
printf '#!/bin/sh\necho ran\n' > d/run.sh
chmod +x d/run.sh
""")

tree = rule(implementation = _tree_impl)

def _empty_tree_impl(ctx):
    return _declared(ctx, "mkdir -p \"$1\"")

empty_tree = rule(implementation = _empty_tree_impl)

def _linked_tree_impl(ctx):
    return _declared(ctx, """
set -eu
mkdir -p "$1"
cd "$1"
mkdir -p a/b
echo behind > a/target.txt
ln -s target.txt a/link-to-file
ln -s ../target.txt a/b/link-upwards
ln -s a/b link-to-directory
""")

linked_tree = rule(implementation = _linked_tree_impl)

def _of_tree(ctx, script):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        outputs = [out],
        inputs = ctx.files.tree,
        command = script,
        arguments = [ctx.files.tree[0].path, out.path],
        mnemonic = "ReadTree",
    )
    return [DefaultInfo(files = depset([out]))]

def _sum_tree_impl(ctx):
    return _of_tree(ctx, "find -L \"$1\" -type f | LC_ALL=C sort | xargs cat > \"$2\"")

sum_tree = rule(
    implementation = _sum_tree_impl,
    attrs = {"tree": attr.label(mandatory = True)},
)

def _digests_impl(ctx):
    return _of_tree(ctx, "cd \"$1\" && find -L . -type f | LC_ALL=C sort | xargs sha256sum > \"$OLDPWD/$2\"")

digests = rule(
    implementation = _digests_impl,
    attrs = {"tree": attr.label(mandatory = True)},
)

def _params_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    arguments = ctx.actions.args()
    arguments.add_all(["argument number %d of many" % i for i in range(ctx.attr.count)])
    arguments.set_param_file_format("multiline")
    arguments.use_param_file("@%s", use_always = True)
    ctx.actions.run_shell(
        outputs = [out],
        command = "LC_ALL=C sort \"${2#@}\" > \"$1\"",
        arguments = [out.path, arguments],
        mnemonic = "Params",
    )
    return [DefaultInfo(files = depset([out]))]

params = rule(
    implementation = _params_impl,
    attrs = {"count": attr.int(mandatory = True)},
)
