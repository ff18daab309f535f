"""The documents that WeChat posts to a shop, and their signature, plain or in safe mode."""

from __future__ import annotations

import secrets
import time
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from channels.wechat import crypto
from core.settings import Settings
from core.times import now

_NUMBERS = iter(range(int(time.time() * 1000), 2**62))


def _document(settings: Settings, openid: str, kind: str, inner: str) -> bytes:
    return (
        "<xml><ToUserName><![CDATA[gh_sandbox]]></ToUserName>"
        f"<FromUserName><![CDATA[{escape(openid)}]]></FromUserName>"
        f"<CreateTime>{int(now(settings).timestamp())}</CreateTime>"
        f"<MsgType><![CDATA[{kind}]]></MsgType>{inner}</xml>"
    ).encode()


def event(settings: Settings, openid: str, name: str, **fields: str) -> bytes:
    """An event with its own fields."""
    inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in fields.items())
    return _document(settings, openid, "event", f"<Event><![CDATA[{name}]]></Event>{inner}")


def text_message(settings: Settings, openid: str, text: str) -> bytes:
    """What a follower writes."""
    inner = f"<Content>{escape(text)}</Content><MsgId>{next(_NUMBERS)}</MsgId>"
    return _document(settings, openid, "text", inner)


def grant_event(settings: Settings, openid: str, template: str, *, agrees: bool) -> bytes:
    """A follower answers the question for subscription messages."""
    answer = "accept" if agrees else "reject"
    inner = (
        "<Event><![CDATA[subscribe_msg_popup_event]]></Event><SubscribeMsgPopupEvent><List>"
        f"<TemplateId>{escape(template)}</TemplateId>"
        f"<SubscribeStatusString>{answer}</SubscribeStatusString><PopupScene>0</PopupScene>"
        f"</List></SubscribeMsgPopupEvent><EventKey>{next(_NUMBERS)}</EventKey>"
    )
    return _document(settings, openid, "event", inner)


def sent_event(settings: Settings, openid: str, template: str, msgid: int, *, refused: bool) -> bytes:
    """What became of a subscription message."""
    code, status = ("1", "user block") if refused else ("0", "success")
    inner = (
        "<Event><![CDATA[subscribe_msg_sent_event]]></Event><SubscribeMsgSentEvent><List>"
        f"<TemplateId>{escape(template)}</TemplateId><MsgID>{msgid}</MsgID>"
        f"<ErrorCode>{code}</ErrorCode><ErrorStatus>{status}</ErrorStatus>"
        "</List></SubscribeMsgSentEvent>"
    )
    return _document(settings, openid, "event", inner)


def signed(settings: Settings, document: bytes) -> tuple[str, bytes]:
    """(the callback's whole address, its body): encrypted where the settings have a key."""
    timestamp, nonce, token = str(int(time.time())), secrets.token_hex(8), settings.wechat_token
    query = {
        "signature": crypto.signature(token, timestamp, nonce),
        "timestamp": timestamp,
        "nonce": nonce,
    }
    if settings.wechat_aes_key:
        sealed = crypto.encrypt(settings.wechat_aes_key, settings.wechat_appid, document)
        query |= {
            "encrypt_type": "aes",
            "msg_signature": crypto.signature(token, timestamp, nonce, sealed),
        }
        document = (
            f"<xml><ToUserName>gh_sandbox</ToUserName><Encrypt><![CDATA[{sealed}]]></Encrypt></xml>".encode()
        )
    return f"{settings.base_url}/callbacks/wechat?{urlencode(query)}", document
