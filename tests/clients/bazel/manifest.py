"""Lists a directory, one line a file: path, kind, mode, and digest or target. manifest.py DIRECTORY [PREFIX TO CUT]"""
import hashlib
import os
import stat
import sys


def entries(root):
    for place, directories, files in os.walk(root):
        directories.sort()
        linked = [name for name in directories if os.path.islink(os.path.join(place, name))]
        for name in sorted(files + linked):
            yield os.path.join(place, name)
        for name in directories:
            path = os.path.join(place, name)
            if name not in linked and not os.listdir(path):
                yield path


def described(path):
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return f"link {os.readlink(path)}"
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    if stat.S_ISDIR(found.st_mode):
        return f"directory {mode}"
    with open(path, "rb") as file:
        return f"file {mode} {hashlib.sha256(file.read()).hexdigest()}"


root = sys.argv[1]
for entry in entries(root):
    print(os.path.relpath(entry, root), described(entry))
