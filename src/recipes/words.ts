// Everyday words for the drills: names, and properties that rules about them may ask for, in English and Chinese.

export interface Word {
  en: string;
  zh: string;
}

export interface Domain {
  names: Word[];
  properties: Word[];
}

/** Short and common words, so that one or two tokens hold them and other texts use them too. */
export const DOMAINS: Domain[] = [
  domain(
    "dog 小狗, cat 小猫, horse 大马, cow 奶牛, sheep 山羊, duck 鸭子, rabbit 兔子, mouse 老鼠, tiger 老虎, lion 狮子, bear 狗熊, monkey 猴子",
    "tail 尾巴, wings 翅膀, fur 毛皮, horns 犄角, feathers 羽毛, scales 鳞片, claws 爪子, beak 尖嘴, stripes 条纹, spots 斑点, hooves 蹄子, teeth 牙齿",
  ),
  domain(
    "oak 橡树, pine 松树, rose 玫瑰, bamboo 竹子, grass 青草, lily 百合, willow 柳树, maple 枫树, palm 棕榈, fern 蕨草",
    "leaves 叶子, thorns 尖刺, fruit 果实, flowers 花朵, bark 树皮, seeds 种子, roots 树根, cones 松果, sap 汁液, shade 树荫, nuts 坚果, moss 青苔",
  ),
  domain(
    "pump 水泵, engine 引擎, fan 风扇, clock 时钟, lamp 台灯, radio 电台, phone 手机, car 汽车, train 火车, boat 小船, plane 飞机",
    "wheels 轮子, motor 马达, light 灯光, noise 噪音, smoke 烟雾, heat 热量, screen 屏幕, button 按钮, battery 电池, wire 电线, fuel 燃料, steam 蒸汽",
  ),
  domain(
    "soup 热汤, bread 面包, cake 蛋糕, rice 米饭, noodles 面条, salad 沙拉, tea 红茶, pie 馅饼, juice 果汁, stew 炖菜",
    "salt 食盐, sugar 白糖, milk 牛奶, egg 鸡蛋, butter 黄油, onion 洋葱, pepper 胡椒, meat 肉块, honey 蜂蜜, flour 面粉, lemon 柠檬, garlic 大蒜",
  ),
  domain(
    "refund 退款, exchange 换货, repair 维修, delivery 送货, discount 折扣, gift 赠品, credit 积分, return 退货, call 回电",
    "receipt 小票, damage 破损, box 盒子, coupon 优惠, card 会员, delay 延误, label 标签, stain 污渍, photo 照片, order 订单, address 地址, invoice 发票",
  ),
  domain(
    "coat 大衣, shirt 衬衫, shoes 鞋子, hat 帽子, dress 裙子, gloves 手套, scarf 围巾, boots 靴子, jacket 夹克",
    "pocket 口袋, zipper 拉链, collar 领子, lace 花边, belt 腰带, wool 羊毛, cotton 棉布, leather 皮革, silk 丝绸, hood 兜帽, sleeves 袖子, buckle 扣子",
  ),
  domain(
    "kitchen 厨房, bedroom 卧室, school 学校, shop 商店, bank 银行, office 办公, library 书馆, hotel 旅馆, farm 农场, museum 展馆",
    "table 桌子, chair 椅子, window 窗户, door 大门, bed 床铺, books 书本, stove 炉子, mirror 镜子, carpet 地毯, garden 花园, stairs 楼梯, desk 书桌",
  ),
  domain(
    "storm 风暴, winter 冬天, summer 夏天, spring 春天, autumn 秋天, desert 沙漠, island 海岛, river 河流, forest 森林, mountain 高山",
    "cloud 白云, wind 大风, rain 下雨, snow 白雪, sun 太阳, fog 雾气, thunder 打雷, ice 冰块, sand 沙子, mud 泥土, stone 石头, stars 星星",
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
