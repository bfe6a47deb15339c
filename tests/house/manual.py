#!/usr/bin/env python3
"""Claims about what is made from the verbs' tables: all that --help says is in the man page and in the completions.
Prints TAP. Arguments: forkd, forkd-controller, forkd.1, forkd-controller.8, the bash and the zsh completion."""
import re
import shutil
import subprocess
import sys

FORKD, CONTROLLER, FORKD_MAN, CONTROLLER_MAN, BASH, ZSH = sys.argv[1:]


def said(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def verbs():
    found = re.findall(r"^  ([a-z-]+)  +(\S.*)", said(FORKD, "--help"), re.M)
    assert len(found) >= 15, found
    return found


def options(text):
    """The options a help describes: those its lines begin with."""
    return [word for line in re.findall(r"^  (-.*)", text, re.M)
            for word in re.findall(r"(?<!\S)--?[a-z][a-z-]*", re.split(r"   +|  (?=\S)", line)[0])]


def plain(path):
    """A man page without its fonts and escapes."""
    text = re.sub(r"\\f[BIR]", "", read(path))
    return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")


def part(text, heading):
    """One section of a man page: to the next heading of its kind or a greater one."""
    found = re.search(rf"^\.S[SH] {re.escape(heading)}\n(.*?)(?=^\.S[SH] |\Z)", text, re.M | re.S)
    assert found, f"no section {heading}"
    return found[1]


def contains(words, text, where):
    missing = [word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]
    assert not missing, f"{missing} not in {where}"


def the_man_page_has_every_verb_and_option_of_help():
    page = plain(FORKD_MAN)
    common = part(page, "OPTIONS OF EVERY VERB")
    for verb, what in verbs():
        assert what in part(page, "VERBS"), what
        contains(options(said(FORKD, verb, "--help")), part(page, f"forkd {verb}") + common, f"forkd {verb} in forkd.1")


def the_man_page_of_the_controller_has_every_option_and_variable_of_help():
    text, page = said(CONTROLLER, "--help"), plain(CONTROLLER_MAN)
    assert len(options(text)) >= 8, options(text)
    contains(options(text), part(page, "OPTIONS"), "forkd-controller.8")
    contains(re.findall(r"\((FORKD_\w+)", text), part(page, "ENVIRONMENT"), "forkd-controller.8")


def the_bash_completion_has_every_verb_and_option_of_help():
    listing = f"source {BASH}; echo $_forkd_verbs; for v in $_forkd_verbs; do echo \"$v: ${{_forkd_options[$v]}}\"; done"
    first, *rest = said("bash", "-c", listing).splitlines()
    assert first.split() == [verb for verb, _ in verbs()], first
    for (verb, _), line in zip(verbs(), rest):
        contains(options(said(FORKD, verb, "--help")), line, f"{BASH}, {verb}")


def the_zsh_completion_has_every_verb_and_option_of_help():
    text = read(ZSH)
    for verb, _ in verbs():
        assert f"    '{verb}:" in text, verb
        found = re.search(rf"^    {verb}\)\n(.*?);;", text, re.M | re.S)
        assert found, verb
        contains(options(said(FORKD, verb, "--help")), found[1], f"{ZSH}, {verb}")


def bash_completes_words():
    def complete(line):
        script = (f"source {BASH}; compopt() {{ :; }}; COMP_LINE={line!r} COMP_POINT={len(line)}; _forkd;"
                  " printf '%s\\n' \"${COMPREPLY[@]}\"")
        return said("bash", "-c", script).split()
    assert complete("forkd spa") == ["spawn"]
    assert complete("forkd spawn --ta") == ["--tag"]
    assert set(complete("forkd images ")) >= {"build", "check", "add-agent"}
    assert "sandboxes" in complete("forkd names s")
    assert complete("forkd spawn -n ") == []
    assert complete("forkd exec id -- --ta") == [], "the words of a command are not forkd's"


def man_pages_are_well_formed():
    if not shutil.which("groff"):
        return "groff is not installed"
    for page in (FORKD_MAN, CONTROLLER_MAN):
        warnings = said("groff", "-man", "-ww", "-z", "-Tutf8", page)
        assert not warnings, warnings
    return None


def zsh_can_read_its_completion():
    if not shutil.which("zsh"):
        return "zsh is not installed"
    said("zsh", "-n", ZSH)
    return None


CLAIMS = [claim for name, claim in globals().items() if callable(claim) and "_" in name]


def main():
    print(f"1..{len(CLAIMS)}")
    for number, claim in enumerate(CLAIMS, 1):
        name = claim.__name__.replace("_", " ")
        try:
            skip = claim()
        except (AssertionError, subprocess.CalledProcessError) as why:
            print(f"not ok {number} - {name}\n# {why!r} in line {why.__traceback__.tb_next.tb_lineno}")
        else:
            print(f"ok {number} - {name}" + (f" # SKIP {skip}" if skip else ""))


if __name__ == "__main__":
    main()
