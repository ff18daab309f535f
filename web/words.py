"""What stored codes are called on a page, and which of the states (good, watch, bad, live) they are."""

from __future__ import annotations

from collections.abc import Iterable

from flask import g, has_request_context
from flask_babel import lazy_gettext as _

from campaigns.decide import REASONS
from segments import settings as scoring
from web import context
from web.i18n import language

_WORDS: dict[str, dict[str, object]] = {
    "campaign": {
        "draft": _("Draft"),
        "pending": _("Waiting for approval"),
        "approved": _("Approved"),
        "running": _("Running"),
        "finished": _("Finished"),
        "paused": _("Paused"),
        "archived": _("Archived"),
        "failed": _("Failed"),
    },
    "message": {
        # states
        "queued": _("Queued"),
        "leased": _("Being sent"),
        "created": _("Waits for an employee"),
        "sent": _("Sent"),
        "delivered": _("Delivered"),
        "failed": _("Failed"),
        "skipped": _("Skipped"),
        "unknown": _("Unknown"),
        # events
        "deferred": _("Deferred"),
        "opened": _("Opened"),
        "clicked": _("Clicked"),
        "unsubscribed": _("Unsubscribed"),
        "complaint": _("Complained"),
        "hard_bounce": _("Bounced: the address does not exist"),
        "soft_bounce": _("Bounced for now"),
        "undelivered": _("Not delivered"),
        "unfriended": _("No contact of an employee any more"),
        "not_confirmed": _("No employee confirmed it"),
    },
    "channel": {
        "email": _("E-mail"),
        "sms": _("SMS"),
        "wechat": _("WeChat"),
        "webhook": _("App"),
        "wecom": _("WeCom"),
    },
    "stop": {"marketing": _("Marketing only"), "everything": _("Everything, receipts too")},
    "visitor": {"proxy": _("Proxy"), "scanner": _("Scanner"), "human": _("Person")},
    "told": {
        "image_proxy": _("an image cache"),
        "apple": _("Apple fetches ahead"),
        "head": _("asked for headers only"),
        "no_agent": _("no browser named"),
        "agent": _("a robot's name"),
        "prefetch": _("fetched ahead"),
        "network": _("from a data centre"),
        "early": _("too soon after the sending"),
        "honeypot": _("followed the hidden link"),
        "all_links": _("followed every link within seconds"),
    },
    "purpose": {"marketing": _("Marketing"), "transactional": _("Transactional")},
    "coupon": {
        "issued": _("Issued"),
        "redeemed": _("Redeemed"),
        "expired": _("Expired"),
        "revoked": _("Revoked"),
        "held": _("Held"),
    },
    "order": {"paid": _("Paid"), "refunded": _("Refunded"), "cancelled": _("Cancelled")},
    "points": {
        "earn": _("Earned"),
        "grant": _("Granted"),
        "spend": _("Spent"),
        "refund": _("Given back"),
        "expire": _("Expired"),
        "revoke": _("Taken back"),
        "debt": _("Debt"),
        "repay": _("Debt repaid"),
        "adjust": _("Adjusted"),
        "hold": _("Held"),
        "release": _("Released"),
        "transfer": _("Given to a member"),
        "receive": _("Received from a member"),
    },
    "adjustment": {"pending": _("Waits"), "done": _("Done"), "refused": _("Refused")},
    "tier_move": {
        "reached": _("Reached"),
        "review": _("Review"),
        "kept": _("Kept"),
        "removed": _("Tier removed"),
    },
    "job": {"running": _("Running"), "done": _("Done"), "failed": _("Failed")},
    "role": {
        "admin": _("Administrator"),
        "marketer": _("Marketer"),
        "analyst": _("Analyst"),
        "support": _("Support"),
    },
    "reason": {
        # of deliveries; those of decisions are the campaigns package's own
        "quiet_hours": _("Quiet hours"),
        "unsubscribed": _("Unsubscribed"),
        "expired": _("Too late to send"),
        "paused": _("Channel is paused"),
        "no_address": _("No address for the channel"),
        "no_consent": _("No consent for the channel"),
        "withdrawn": _("Consent was withdrawn"),
        "suppressed": _("Address is suppressed"),
        "erased": _("Member was erased"),
        "hard_bounce": _("Address does not exist"),
        "complaint": _("Complained"),
        "unsubscribe": _("Unsubscribed"),
        "attempts": _("Tried as often as allowed"),
        "not_confirmed": _("No employee confirmed it"),
        "unanswered": _("The provider never answered"),
        "coupon_gone": _("Its coupon could not be used any more"),
    },
    "source": {
        "run": _("Campaign"),
        "journey": _("Journey"),
        "api": _("Shop's system"),
        "test": _("Test"),
        "optin": _("Confirmation of consent"),
        "reminder": _("Reminder"),
    },
    "metric": {
        "revenue": _("Revenue"),
        "orders": _("Orders"),
        "converted": _("Conversion"),
        "conversion": _("Conversion"),
        "margin": _("Margin"),
    },
    "readout": {"real": _("Real"), "simulated": _("Simulated")},
    "check": {
        "customers": _("Enough customers"),
        "repeaters": _("Enough who bought again"),
        "converged": _("The search ended"),
        "gradient": _("At a maximum"),
        "starts": _("The same from every start"),
        "limits": _("Parameters inside their limits"),
        "determined": _("The data tell the parameters"),
        "correlation": _("Spend does not go with frequency"),
        "finite_mean": _("A mean spend exists"),
        "hold_out": _("Right about held-out days"),
    },
    "risk": {"0": "0–20 %", "1": "20–40 %", "2": "40–60 %", "3": "60–80 %", "4": "80–100 %"},
    "recommended": {
        "back_in_stock": _("Back in stock since it was looked at"),
        "price_drop": _("Cheaper since it was looked at"),
        "buy_again": _("Bought again and again"),
        "goes_with": _("Goes with what was bought"),
        "popular_category": _("Popular in a category bought before"),
        "popular": _("Popular with everybody"),
    },
    "attribution": {
        "last": _("Last touch"),
        "first": _("First touch"),
        "linear": _("Linear"),
        "position": _("Position"),
        "markov": _("Markov chain"),
    },
    "touch": {"sent": _("A message that was sent"), "opened": _("An open"), "clicked": _("A click")},
    "arm": {"control": _("Holdout"), "holdout": _("Holdout")},
    "scope": {
        "ingest": _("Send data in"),
        "loyalty": _("Coupons and points"),
        "read": _("Read"),
        "experiments": _("Experiments"),
    },
    "experiment": {"draft": _("Draft"), "running": _("Running"), "stopped": _("Stopped for good")},
    "experiment_kind": {
        "shop": _("The shop's pages"),
        "campaign": _("Of campaigns"),
        "control": _("Global control group"),
    },
    "experiment_unit": {"member": _("Members"), "visitor": _("Visitors")},
    "allocation": {"fixed": _("Fixed weights"), "bandit": _("Bandit")},
    "not_open": {
        "not_running": _("not started"),
        "not_started": _("waits for its start"),
        "ended": _("over"),
    },
    "template": {
        "subject": _("Subject"),
        "preheader": _("Preview line"),
        "html": _("HTML"),
        "text": _("Text"),
        "provider_template": _("Provider's template id"),
        "params": _("Parameters"),
        "url": _("Link"),
        "data": _("Fields of the card"),
        "kind": _("Kind of message"),
        "miniprogram": _("Mini program"),
        "link": _("Link"),
        "title": _("Title"),
        "body": _("Text"),
    },
    "object": {
        "campaign": _("Campaign"),
        "segment": _("Segment"),
        "list": _("List"),
        "template": _("Template"),
        "snippet": _("Snippet"),
        "coupon_batch": _("Coupon batch"),
        "coupon": _("Coupon"),
        "claim_link": _("Claim link"),
        "promotion": _("Promotion"),
        "points_adjustment": _("Adjustment of points"),
        "points_multiplier": _("Points multiplier"),
        "points_event_rule": _("Points for an event"),
        "referral_program": _("Referral programme"),
        "referral": _("Referral"),
        "group_offer": _("Group offer"),
        "abuse_hit": _("Sign of abuse"),
        "abuse_allowance": _("Allow-list"),
        "member": _("Member"),
        "user": _("User"),
        "api_key": _("API key"),
        "channel": _("Channel"),
        "message": _("Message"),
        "settings": _("Settings"),
        "preference": _("Settings"),
        "import": _("Import"),
    },
    "action": {
        "create": _("Made"),
        "experiment.start": _("Started"),
        "experiment.stop": _("Stopped for good"),
        "experiment.reweigh": _("Weighed anew"),
        "save": _("Saved"),
        "change": _("Changed"),
        "archive": _("Archived"),
        "restore": _("Restored"),
        "submit": _("Submitted for approval"),
        "approve": _("Approved"),
        "reject": _("Sent back"),
        "pause": _("Paused"),
        "resume": _("Resumed"),
        "run_again": _("Asked for another run"),
        "run": _("Run"),
        "undo": _("Undone"),
        "measure": _("Measured"),
        "issue": _("Codes issued"),
        "retry": _("Sent again"),
        "erase": _("Erased"),
        "revoke": _("Revoked"),
        "refuse": _("Refused"),
        "ask": _("Asked for"),
        "import": _("Imported"),
        "export": _("Exported"),
        "abuse.confirmed": _("Abuse confirmed"),
        "abuse.dismissed": _("Dismissed"),
        "abuse.allow": _("Put on the allow-list"),
        "abuse.withdraw": _("Taken off the allow-list"),
        "member.contact_shown": _("Looked at contact details"),
        "member.wallet_shown": _("Looked at the wallet"),
        "user.create": _("User added"),
        "user.change": _("Roles or access changed"),
        "user.password": _("Password set"),
        "user.rename": _("Name changed"),
        "channel.pause": _("Channel paused"),
        "channel.resume": _("Channel resumed"),
        "channel.close": _("Circuit closed by hand"),
        "delivery.stop": _("All channels stopped"),
        "delivery.resume": _("All channels resumed"),
        "channel.unknown": _("Choice for unanswered messages changed"),
        "freeze": _("Frozen from a segment"),
        "add to": _("Members added"),
        "replace": _("Members replaced"),
        "remove from": _("Members taken off"),
        "rename": _("Renamed"),
        "tag": _("Tagged"),
        "untag": _("Tag taken off"),
    },
    "property": {
        "amount": _("amount"),
        "discount": _("discount"),
        "channel": _("channel"),
        "coupon_code": _("coupon code"),
        "status": _("status"),
        "category": _("category"),
        "sku": _("SKU"),
        "brand": _("brand"),
        "quantity": _("quantity"),
        "purpose": _("purpose"),
        "delta": _("change"),
        "kind": _("kind"),
    },
    "op": {
        "=": _("is"),
        "!=": _("is not"),
        ">": ">",
        ">=": "≥",
        "<": "<",
        "<=": "≤",
        "between": _("between"),
        "in": _("one of"),
        "not_in": _("none of"),
        "contains": _("contains"),
        "starts_with": _("starts with"),
        "matches_any": _("has any of"),
        "is_set": _("is known"),
        "is_not_set": _("is not known"),
        "in_last": _("in the last"),
        "in_next": _("in the next"),
        "anniversary_in": _("has its day within"),
    },
    "aggregate": {
        "count": _("number"),
        "sum": _("sum of"),
        "min": _("least"),
        "max": _("greatest"),
        "avg": _("average of"),
        "distinct": _("different values of"),
        "days_since": _("days since the last"),
        "first": _("first"),
        "last": _("last"),
    },
    "event": {
        "order": _("Order"),
        "order_line": _("Order line"),
        "message_sent": _("Message sent"),
        "message_opened": _("Message opened"),
        "message_clicked": _("Message clicked"),
        "message_delivered": _("Message delivered"),
        "coupon_redeemed": _("Coupon redeemed"),
        "coupon_issued": _("Coupon issued"),
        "points": _("Points"),
        "page_view": _("Page viewed"),
        "wechat_followed": _("Followed on WeChat"),
        "wechat_scanned": _("Scanned a WeChat code"),
        "wechat_unfollowed": _("Unfollowed on WeChat"),
        "view": _("Product viewed"),
        "product_viewed": _("Product viewed"),
        "search": _("Searched"),
        "add_to_cart": _("Put in cart"),
        "cart": _("Put in cart"),
        "checkout": _("Checkout"),
        "share": _("Shared"),
        "favourite": _("Added to favourites"),
        "sign_up": _("Signed up"),
        "birthday": _("Birthday"),
        "review": _("Product reviewed"),
        "check_in": _("Checked in"),
        "survey": _("Survey answered"),
        "referral": _("Friend brought along"),
    },
    "cohort_measure": {
        "retention": _("Share who ordered again"),
        "orders": _("Orders per member"),
        "revenue": _("Revenue per member"),
    },
    "cohort_period": {"month": _("Months"), "week": _("Weeks")},
    "moves_column": {
        "stage": _("Lifecycle stage"),
        "rfm_segment": _("RFM segment"),
        "value_segment": _("Value segment"),
    },
    "funnel_by": {
        "stage": _("Lifecycle stage"),
        "rfm_segment": _("RFM segment"),
        "value_segment": _("Value segment"),
        "city": _("City"),
        "province": _("Province"),
        "country": _("Country"),
        "gender": _("Gender"),
        "locale": _("Language"),
        "source": _("Source of the member"),
        "first_channel": _("Channel of the first order"),
    },
}

_TONES = {
    "campaign": {
        "pending": "watch",
        "running": "live",
        "approved": "good",
        "failed": "bad",
        "paused": "watch",
    },
    "message": {
        "delivered": "good",
        "sent": "good",
        "failed": "bad",
        "unknown": "watch",
        "created": "watch",
        "leased": "live",
        "queued": "live",
        "deferred": "watch",
    },
    "coupon": {"redeemed": "good", "issued": "live", "revoked": "bad"},
    "order": {"paid": "good", "refunded": "watch"},
    "job": {"running": "live", "done": "good", "failed": "bad"},
    "stage": {
        "at_risk": "watch",
        "churned": "bad",
        "high_value": "good",
        "reactivated": "good",
        "active": "good",
    },
    "readout": {"simulated": "watch", "real": "good"},
    "experiment": {"running": "live", "stopped": ""},
}


def segment_titles() -> scoring.Titles:
    """Titles that the segments package owns and the marketer edits, read once a request."""
    if not has_request_context():
        return scoring.TITLES
    if "titles" not in g:
        g.titles = scoring.titles(context.reading())
    found: scoring.Titles = g.titles
    return found


def stages() -> list[str]:
    """Every stage there is, in its order."""
    return list(scoring.STAGE_TITLES)


def word(kind: str, code: str | None) -> str:
    """The page's word for a stored code; a code without one is shown as it is, legibly."""
    if code is None:
        return ""
    if kind == "reason" and code in REASONS:
        text = REASONS[code][language() == "zh"]
        return text[:1].upper() + text[1:]
    if kind in scoring.TITLES and code in scoring.TITLES[kind]:
        return segment_titles()[kind][code][language() == "zh"]
    found = _WORDS.get(kind, {}).get(code)
    return str(found) if found is not None else code.replace("_", " ")


def tone(kind: str, code: str | None) -> str:
    """``good``, ``watch``, ``bad``, ``live`` or nothing."""
    return _TONES.get(kind, {}).get(code or "", "")


def codes(kind: str) -> list[str]:
    """The codes of a kind that have words, in their order."""
    return list(_WORDS[kind])


def options(kind: str, codes_: Iterable[str]) -> list[tuple[str, str]]:
    """(code, word) pairs for a choice."""
    return [(code, word(kind, code)) for code in codes_]
