"""Why a referral is held or rejected, in words that a shop can show, in English and Chinese."""

from __future__ import annotations

ONESELF, ORDERED_BEFORE = "oneself", "ordered_before"
SAME_DEVICE, SAME_ADDRESS, SAME_PHONE = "same_device", "same_address", "same_phone"
WEEKLY_LIMIT, SUSPICIOUS, ABUSE = "weekly_limit", "suspicious", "abuse"
BELOW_MINIMUM, REFUNDED, ERASED = "below_minimum", "refunded", "erased"
NO_REWARD, BY_HAND = "no_reward", "by_hand"

WORDS: dict[str, tuple[str, str]] = {
    ONESELF: ("Nobody can invite themselves.", "不能邀请自己。"),
    ORDERED_BEFORE: (
        "The friend had ordered before they joined; only new customers count.",
        "好友在加入前已下过单，仅限新客户。",
    ),
    SAME_DEVICE: (
        "Both sides used the same device.",
        "双方使用了同一台设备。",
    ),
    SAME_ADDRESS: (
        "Both sides have the same delivery address.",
        "双方的收货地址相同。",
    ),
    SAME_PHONE: (
        "Both sides have the same phone number.",
        "双方的手机号相同。",
    ),
    WEEKLY_LIMIT: (
        "More friends joined within a week than the programme allows; somebody will look at it.",
        "一周内邀请的好友超过上限，需人工审核。",
    ),
    SUSPICIOUS: (
        "This was seen too often from the same place; somebody will look at it.",
        "同一来源的操作过于频繁，需人工审核。",
    ),
    ABUSE: ("This was refused by the rules against abuse.", "已被防薅规则拒绝。"),
    BELOW_MINIMUM: (
        "The friend's first order was below the minimum after refunds.",
        "好友首单退款后的金额低于最低要求。",
    ),
    REFUNDED: ("The friend's first order was refunded.", "好友的首单已退款。"),
    ERASED: ("One of the two is no member any more.", "其中一方已不再是会员。"),
    NO_REWARD: (
        "A coupon of the reward cannot be issued: its batch is used up, over, or archived.",
        "奖励券无法发放：券批次已发完、已结束或已归档。",
    ),
    BY_HAND: ("Somebody looked at it and rejected it.", "经人工审核后拒绝。"),
}
"""reason → (English, Chinese)"""
