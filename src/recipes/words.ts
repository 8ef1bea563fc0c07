// Everyday words for the drills: names, and properties that rules about them may ask for, in English and Chinese.

export interface Word {
  en: string;
  zh: string;
}

export interface Domain {
  names: Word[];
  properties: Word[];
}

/** Some of the commonest words of any text, in one token each where the tokenizer has met the drills. */
export const COMMON_WORDS = {
  en: (
    "book boy car child city day door ear eye foot friend hand head heart home horse hour house king land life light " +
    "man money mother name night part people place road room school sea side street table thing time town tree voice " +
    "wall water way week wind woman word work world year"
  ).split(" "),
  zh: Array.from(
    "大小中来去天地人口手山水火木金土日月东西南北前后左右高低长短多少早晚新老红白花马车门书家心力声光年时学走看听吃",
  ),
};

/** Names of one token each that mean nothing. */
export const LABELS = {
  en: Array.from("abcdefghijklmnopqrstuvwxyz"),
  zh: Array.from("甲乙丙丁一二三四五六七八九十百千万春夏秋冬"),
};

/** Few and short, so that they soon are single tokens, as the findings and conditions of the study are. */
export const DOMAINS: Domain[] = [
  domain(
    "dog 小狗, cat 小猫, cow 奶牛, sheep 山羊, duck 鸭子, rabbit 兔子, tiger 老虎, bear 狗熊",
    "tail 尾巴, wings 翅膀, fur 毛皮, horns 犄角, feathers 羽毛, scales 鳞片, claws 爪子, stripes 条纹, spots 斑点, teeth 牙齿",
  ),
  domain(
    "pump 水泵, engine 引擎, fan 风扇, clock 时钟, lamp 台灯, radio 电台, phone 手机, boat 小船",
    "wheels 轮子, motor 马达, noise 噪音, smoke 烟雾, heat 热量, screen 屏幕, button 按钮, battery 电池, wire 电线, fuel 燃料",
  ),
  domain(
    "soup 热汤, bread 面包, cake 蛋糕, rice 米饭, noodles 面条, salad 沙拉, pie 馅饼, juice 果汁",
    "salt 食盐, sugar 白糖, milk 牛奶, egg 鸡蛋, butter 黄油, onion 洋葱, pepper 胡椒, meat 肉块, honey 蜂蜜, flour 面粉",
  ),
  domain(
    "refund 退款, exchange 换货, repair 维修, delivery 送货, discount 折扣, gift 赠品, credit 积分, return 退货",
    "receipt 小票, damage 破损, box 盒子, coupon 优惠, card 会员, delay 延误, label 标签, stain 污渍, photo 照片, order 订单",
  ),
  domain(
    "oak 橡树, pine 松树, rose 玫瑰, bamboo 竹子, grass 青草, lily 百合, willow 柳树, maple 枫树",
    "leaves 叶子, thorns 尖刺, fruit 果实, flowers 花朵, bark 树皮, seeds 种子, roots 树根, cones 松果, sap 汁液, nuts 坚果",
  ),
];

function domain(names: string, properties: string): Domain {
  return { names: words(names), properties: words(properties) };
}

function words(list: string): Word[] {
  return list.split(", ").map((pair) => {
    const [en, zh] = pair.split(" ");
    return { en, zh };
  });
}
