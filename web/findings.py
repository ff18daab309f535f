"""What the checks of a template found, in the reader's words."""

from __future__ import annotations

from flask_babel import lazy_gettext as _

from channels.checks import ERROR, Finding

_SENTENCES: dict[str, object] = {
    "attribute_missing": _(
        "%(name)s is missing for %(lacking)s of %(members)s members looked at: their messages would fail. "
        "Add |default(…) to it, or ask for it with “if” first."
    ),
    "variable_empty": _(
        "%(name)s is empty for %(lacking)s of %(members)s members looked at: its place stays blank."
    ),
    "banned_word": _("“%(word)s” is on the list of words that advertising law or spam filters mind."),
    "clipped": _("The HTML has %(kb)s KB; Gmail shows %(limit)s KB and clips the rest."),
    "no_alt": _("An image has no text (alt) for those who do not see it: %(image)s"),
    "no_subject": _("The subject is empty for this member."),
    "no_unsubscribe": _("Marketing e-mail needs a link to {{ unsubscribe_url }}."),
    "sms_too_long": _("The text has %(units)s characters; providers in mainland China take 500 at most."),
    "sms_segments": _("The text has %(units)s characters: it is sent and paid as %(segments)s messages."),
    "no_opt_out": _("Marketing SMS must say how to leave; end it with “%(hint)s”."),
    "wechat_cut": _("%(name)s is full: WeChat takes %(limit)s characters, longer values are cut."),
    "wecom_tasks": _(
        "What differs from member to member makes a task of its own for each; the employee confirms each. "
        "Without {{ … }} up to 10,000 customers share one."
    ),
    "link_dead": _("%(url)s answers %(status)s: the page is not there."),
    "link_unreachable": _("%(url)s does not answer."),
    "link_private": _("%(url)s is an address of a private network; members cannot open it."),
}


def sentence(finding: Finding) -> str:
    """The finding as a sentence; one without words by its code."""
    text = _SENTENCES.get(finding.code)
    if text is None:
        return finding.code.replace("_", " ")
    return str(text) % dict(finding.values)


def tone(finding: Finding) -> str:
    """Of its mark on the page."""
    return "bad" if finding.level == ERROR else "watch"
